package emitter

import (
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registration"
)

const (
	// firstAsk is how soon a proxy that did not answer is asked again, and maxAsk how long that wait grows,
	// beside the way there and back.
	// A new registration, unless there is nothing to send to it (deferAsk), and a connection that came
	// back, ask at once.
	firstAsk = 250 * time.Millisecond
	maxAsk   = 10 * time.Second
	// stallAfter is how long nothing is acknowledged, beside the way there and back, before the proxy is asked
	// what it has: an event or an answer may be lost.
	stallAfter = time.Second

	// deferredQuestions is how many of the proxies whose question was deferred are asked at once. That
	// begins when no more of them came for deferredAfter, or when the first has waited longestDeferral.
	deferredQuestions = 64
	deferredAfter     = 50 * time.Millisecond
	longestDeferral   = time.Second
)

// phase is where a subscription stands.
type phase uint8

const (
	absent  phase = iota // not registered; what is known of it is kept for a while
	loading              // its checkpoint is being read
	asking               // the proxy was asked what it took last, or is to be
	placing              // start -1: where it begins is being stored, before it gets anything
	running              // events are sent
	paused               // nobody listens on its deliver subject: until there is a newer registration, or a look again
)

// session is what the leader knows of its talk with the proxy that holds a subscription.
type session struct {
	phase  phase
	number uint64 // counts deliver subjects and questions: an answer to an older one says nothing
	reply  string // subject of answers, which ends in the number
	// since is the first session whose acknowledgements count. One from before is of another history of the
	// store, and so of other events, or of an incarnation that was superseded: its subscriber may have
	// dropped what it says was accepted.
	since uint64
	// released says that the proxy gave the subscription back by itself, after it had acknowledged
	// everything. That it did may be heard later than who has it next.
	released   bool
	absentFrom time.Time

	progressAt  time.Time // the last acknowledgement, or the first event sent after all were
	askedAt     time.Time
	askWait     time.Duration // until it is asked again
	way         time.Duration // to the proxy and back, which comes on top of what the proxy may take
	deferred    bool          // it is to be asked, when its turn comes or there is something to send to it
	outstanding bool          // it was deferred, is asked, and did not answer yet
}

// sessions are those of all subscriptions with their proxies: whom to ask, when to ask again, and which
// answers count. They are a plain value that sends nothing and knows no clock. The leader's loop owns it:
// it sends the questions, and tells what is answered.
//
// Invariant: a subscription that waits for an answer, for somebody to listen, or for an acknowledgement is
// attended, and due says when to ask again; or its question is deferred, and nextDeferred says when its
// turn is. So where somebody waits, somebody asks.
type sessions struct {
	replies  string            // prefix of reply subjects
	attended map[*sub]struct{} // were asked, are paused, or have events in flight
	// Subscriptions whose new proxies can wait to be asked, since there is nothing to send to them. When an
	// instance dies thousands are taken over within some tenths of a second, and questions and answers
	// would compete with that.
	deferred    []*sub    // in order
	from, last  time.Time // when the first of them came, and the last
	outstanding int       // that were asked, and did not answer yet
}

// attend has a subscription looked after by due.
func (x *sessions) attend(s *sub) {
	if x.attended == nil {
		x.attended = map[*sub]struct{}{}
	}
	x.attended[s] = struct{}{}
}

// register notes that a record names another holder, or the same in another incarnation: acknowledgements
// of sessions before count only where that one had given the subscription back.
func (x *sessions) register(s *sub, before, now registration.Registration) (superseded bool) {
	superseded = before.Owner.ID != now.Owner.ID || before.Incarnation != now.Incarnation
	if superseded && !s.released {
		s.since = s.number + 1
	}
	s.released = false
	return superseded
}

// release notes that a subscription is nobody's. An incarnation that is not older says that its proxy did
// that by itself.
func (x *sessions) release(s *sub, incarnation uint64, now time.Time) {
	x.endQuestion(s)
	s.rewind()
	s.phase, s.absentFrom = absent, now
	s.released = incarnation > 0 && incarnation >= s.registration.Incarnation
}

// open begins a session. The proxy is asked what it took last, and told which history of the store this is
// about; nothing is sent to it before it answers.
func (x *sessions) open(s *sub) {
	x.endQuestion(s)
	s.restart()
	s.number++
	s.reply = fmt.Sprintf("%s.%d.%d", x.replies, s.id, s.number)
	s.phase = asking
	x.attend(s)
}

// asked notes that a question was sent, in a session or to begin one.
func (x *sessions) asked(s *sub, now time.Time) {
	s.askedAt = now
	s.askWait = min(max(2*s.askWait, firstAsk), maxAsk) + s.way
}

// hurry has the next wait for an answer be the shortest.
func (s *session) hurry() { s.askWait = 0 }

// pause waits for a newer registration, or until it is worth asking again.
func (x *sessions) pause(s *sub, now time.Time) {
	x.endQuestion(s)
	s.rewind()
	s.phase, s.askedAt = paused, now
	s.askWait = max(s.askWait, firstAsk)
	x.attend(s)
}

// deferAsk begins a session with a proxy that took over from another, or from an earlier run. It is asked
// once an event comes for it, and else in its turn when no more are taken over.
func (x *sessions) deferAsk(s *sub, now time.Time) {
	x.open(s)
	delete(x.attended, s)
	s.deferred = true
	if len(x.deferred) == 0 {
		x.from = now
	}
	x.deferred, x.last = append(x.deferred, s), now
}

// nextDeferred is the next of the deferred that is to be asked now; nil: nobody yet. It is asked then, and
// counted by await.
func (x *sessions) nextDeferred(now time.Time) *sub {
	if now.Sub(x.last) < deferredAfter && now.Sub(x.from) < longestDeferral {
		return nil
	}
	for len(x.deferred) > 0 && x.outstanding < deferredQuestions {
		s := x.deferred[0]
		if x.deferred = x.deferred[1:]; s.deferred { // else it was asked, or is not registered any more
			return s
		}
	}
	if len(x.deferred) == 0 {
		x.deferred = nil
	}
	return nil
}

// await counts a question that was deferred, until it is answered.
func (x *sessions) await(s *sub) {
	if s.phase == asking {
		s.outstanding = true
		x.outstanding++
	}
}

// endQuestion notes that a proxy's answer is not waited for any more.
func (x *sessions) endQuestion(s *sub) {
	if s.outstanding {
		s.outstanding = false
		x.outstanding--
	}
	s.deferred = false
}

// meaning is what an answer says to the leader.
type meaning uint8

const (
	nothing      meaning = iota
	acknowledged         // up to its number
	outdated             // an acknowledgement of an incarnation that was superseded, or of another history: it does not count
	unreached            // nobody listens, or the proxy is gone
	begins               // the session begins, after its number
	misses               // the proxy misses what comes after its number
	staleTerm            // it knows a later term
	unreadable           // it can't read what it is sent
)

// judge says what an answer means.
func (x *sessions) judge(s *sub, a *answer) meaning {
	switch {
	case a.Kind == event.Unaccepted:
		return nothing // it has accepted nothing yet, and goes on
	case a.Kind == event.Acked && a.session >= s.since:
		// It holds although the proxy is released: one that stops says what it accepted before, and that
		// may be heard after.
		return acknowledged
	case a.Kind == event.Acked:
		return outdated
	case a.session != s.number || s.phase != asking && s.phase != running:
		return nothing
	}
	x.endQuestion(s)
	switch {
	case a.nobody, a.Kind == event.Gone:
		return unreached
	case a.Kind == event.Missing && s.phase == asking:
		return begins
	case a.Kind == event.Missing:
		return misses
	case a.Kind == event.StaleTerm:
		return staleTerm
	}
	return unreadable
}

// run lets events be sent after what the proxy took last.
func (x *sessions) run(s *sub, last uint64, now time.Time) {
	s.goBack(last)
	s.phase, s.progressAt = running, now
	s.hurry()
}

// sent notes the first event that is in flight after none was.
func (x *sessions) sent(s *sub, now time.Time) {
	s.progressAt = now
	x.attend(s)
}

// miss goes back to after what the proxy took last, and reports whether that was sent before.
func (x *sessions) miss(s *sub, last uint64, now time.Time) (back bool) {
	before := s.sender.Sent
	s.goBack(last)
	if _, attended := x.attended[s]; !attended && !s.sender.Idle() { // it took more than was known
		x.sent(s, now)
	}
	return s.sender.Sent < before
}

// need is what a subscription that is attended needs.
type need uint8

const (
	noNeed need = iota
	toBeAsked
	toBeQuestioned // in its session: it acknowledges nothing
)

// due says what a subscription that is attended needs now. One that needs no more attention is left alone
// from then on.
func (x *sessions) due(s *sub, now time.Time) need {
	switch {
	case s.phase == absent, s.phase == loading, s.phase == placing, s.phase == running && s.sender.Idle():
		delete(x.attended, s)
	case s.phase == paused || s.phase == asking:
		if now.Sub(s.askedAt) >= s.askWait {
			return toBeAsked
		}
	case now.Sub(s.progressAt) >= stallAfter+s.way && now.Sub(s.askedAt) >= s.askWait:
		// Nothing was acknowledged for stallAfter: the proxy is slow, or an event was lost. Halve the
		// window, and ask the proxy which.
		s.window = max(leastWindow, s.window/2)
		return toBeQuestioned
	}
	return noNeed
}
