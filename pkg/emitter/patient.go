package emitter

import "time"

const (
	// patientQuestions is how many of the proxies that can wait are asked at once. That begins when no more of them came for
	// patientAfter, or when the first has waited mostPatience.
	patientQuestions = 64
	patientAfter     = 50 * time.Millisecond
	mostPatience     = time.Second
)

// patients are the subscriptions whose new proxies can wait to be asked, since there is nothing to send to them. When an
// instance dies thousands are taken over within some tenths of a second, and questions and answers would compete with that.
type patients struct {
	waiting []*sub    // in order
	from    time.Time // when the first of them came
	last    time.Time // when the last did
	asked   int       // that were, and did not answer yet
}

// askLater begins a session with a proxy that took over from another, or from an earlier run. It is asked once an event comes
// for it, and else in its turn when no more are taken over.
func (l *leader) askLater(s *sub, now time.Time) {
	l.open(s)
	delete(l.attention, s)
	s.phase, s.patient = asking, true
	p := &l.patients
	if len(p.waiting) == 0 {
		p.from = now
	}
	p.waiting, p.last = append(p.waiting, s), now
}

// askPatient asks the next of those that can wait.
func (l *leader) askPatient(now time.Time) {
	p := &l.patients
	if now.Sub(p.last) < patientAfter && now.Sub(p.from) < mostPatience {
		return
	}
	for len(p.waiting) > 0 && p.asked < patientQuestions {
		s := p.waiting[0]
		p.waiting = p.waiting[1:]
		if !s.patient { // it was asked, or is not registered any more
			continue
		}
		if l.ask(s, now); s.phase == asking {
			s.counted = true
			p.asked++
		}
	}
	if len(p.waiting) == 0 {
		p.waiting = nil
	}
}

// unask notes that a proxy's answer is not waited for any more.
func (l *leader) unask(s *sub) {
	if s.counted {
		s.counted = false
		l.patients.asked--
	}
	s.patient = false
}
