package emitter

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/election"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registration"
)

// ask begins a session with the proxy that holds the registration.
func (l *leader) ask(s *sub, now time.Time) {
	l.catchUp.detach(s)
	l.sessions.open(s)
	if l.catchUp.tail == nil || l.history.resetting || !l.question(s, now) {
		l.pause(s, now)
	}
}

// askAtOnce asks a proxy whose question was deferred.
func (l *leader) askAtOnce(s *sub) { l.ask(s, time.Now()) }

// askDeferred asks the next of those that can wait.
func (l *leader) askDeferred(now time.Time) {
	for s := l.sessions.nextDeferred(now); s != nil; s = l.sessions.nextDeferred(now) {
		l.ask(s, now)
		l.sessions.await(s)
	}
}

// follows reports whether it is known what the proxy of a new registration took last, without asking it.
func (l *leader) follows(s *sub, stopped registration.Position) bool {
	return stopped.Epoch != "" && stopped.Epoch == l.history.epoch && l.catchUp.tail != nil && !l.history.resetting && s.checkpoint.placed && (s.registration.StartVersion >= 0 || s.checkpoint.durable)
}

// resumeAfterHolder begins a session where the holder before stopped, which said so when it handed the subscription over: asking would be
// most of the pause. Where the proxy knows it otherwise, it says so.
func (l *leader) resumeAfterHolder(s *sub, accepted uint64, now time.Time) {
	if s.sender.Ack(accepted) {
		l.checkpoints.mark(s)
	}
	l.catchUp.detach(s)
	l.sessions.open(s)
	l.resumeFrom(s, accepted, now)
}

// question asks, in a session or to begin one.
func (l *leader) question(s *sub, now time.Time) bool {
	l.sessions.asked(s, now)
	m := &nats.Msg{Subject: s.registration.DeliverSubject, Reply: s.reply, Header: nats.Header{
		event.SequenceHeader: {"0"}, event.TermHeader: l.term.value, event.EpochHeader: {l.history.epoch},
	}}
	return s.local && l.local.Offer(event.Handoff{Message: m, Term: l.term.number}) || l.nc.PublishMsg(m) == nil
}

// pause waits for a newer registration, or until it is worth asking again.
func (l *leader) pause(s *sub, now time.Time) {
	l.catchUp.detach(s)
	l.sessions.pause(s, now)
}

func (l *leader) answered(a *answer, now time.Time) {
	if a.id == 0 { // no subscription's
		l.arrived(a.session, now)
		return
	}
	s := l.byID[a.id]
	if s == nil {
		return
	}
	switch l.sessions.judge(s, a) {
	case nothing:
	case acknowledged:
		l.acked(s, a.Number, now)
	case outdated:
		l.metrics.Ignored.Inc()
	case unreached:
		l.metrics.Nobody.Inc()
		l.pause(s, now)
	case begins:
		l.begin(s, a.Number, now)
	case misses:
		l.missing(s, a.Number, now)
	case staleTerm:
		l.metrics.Stale.Inc()
		l.stale(a.Number)
	case unreadable:
		l.log.Warn("a proxy can't read what it is sent", "subscription", s.name, "owner", s.registration.Owner.Name)
	}
}

func (l *leader) acked(s *sub, sequence uint64, now time.Time) {
	if !s.acknowledge(sequence) {
		return
	}
	s.progressAt = now
	l.checkpoints.mark(s)
	if s.phase != running {
		return
	}
	s.hurry()
	s.pos = max(s.pos, sequence)
	s.grow()
	if s.segment == nil && s.hasHalfWindow() {
		l.catchUp.resume(s)
	}
}

// begin lets a subscription run whose proxy said what it took last.
func (l *leader) begin(s *sub, last uint64, now time.Time) {
	switch start := s.registration.StartVersion; {
	case s.checkpoint.placed:
	case last > 0 || s.sender.Acked > 0:
		// The proxy knows more than the bucket of checkpoints.
		if s.sender.Acked == 0 {
			s.sender.Acked = s.startPosition() // it has accepted none yet
		}
		s.sender = NewSender(s.sender.Acked)
		s.checkpoint.placed = true
		l.checkpoints.restored++
		l.checkpoints.mark(s)
	default:
		position := l.catchUp.tail.high // of start -1: new events only
		if start >= 0 {
			position, s.loss.fresh = s.startPosition(), start == 0
		}
		s.sender = NewSender(position)
		s.checkpoint.placed = true
	}
	if s.registration.StartVersion < 0 && !s.checkpoint.durable {
		// Were it lost, the next leader would begin later.
		s.phase = placing
		l.checkpoints.hurry()
		l.checkpoints.mark(s)
		return
	}
	l.resumeFrom(s, last, now)
}

// resumeFrom lets a subscription run after what its proxy took last.
func (l *leader) resumeFrom(s *sub, last uint64, now time.Time) {
	l.sessions.run(s, last, now)
	s.pos = s.sender.Sent
	if known := max(last, s.known()); known > l.catchUp.tail.high {
		l.checkHistory(known)
	}
	l.catchUp.resume(s)
}

// missing goes back to after what the proxy took last.
func (l *leader) missing(s *sub, last uint64, now time.Time) {
	if l.sessions.miss(s, last, now) {
		l.metrics.Rewound.Inc()
		l.catchUp.detach(s)
		s.pos = s.sender.Sent
	} else {
		s.pos = max(s.pos, s.sender.Sent)
	}
	l.catchUp.resume(s)
}

// stale is a proxy's word, or a checkpoint's, that there is a later leader. Only the lease tells: where it is still held, terms have gone back
// (the bucket was lost, or somebody announced a term by hand), and this leader's is raised above what was seen.
func (l *leader) stale(term uint64) {
	if term < l.term.number || l.checkpoints.suspended {
		return
	}
	l.checkpoints.suspended = true
	l.log.Warn("a later term is known; looking whether this leader is deposed", "term", l.term.number, "later", term)
	l.verify(term)
}

// verify keeps the leader from writing checkpoints until it is known whether it still leads: it must not write over what a
// later one wrote.
func (l *leader) verify(term uint64) {
	l.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		err := l.lease.RaiseTerm(ctx, term)
		l.inbox.call(func() {
			switch {
			case err == nil:
				l.checkpoints.suspended = false
				l.adoptTerm(time.Now())
			case errors.Is(err, election.ErrDeposed): // the context ends
			case errors.Is(err, election.ErrLastTerm):
				l.checkpoints.suspended = false
				l.log.Error("the lease can't be renewed with a later term", "error", err)
			default: // it is not known yet
				l.verify(term)
			}
		})
	})
}

// askAll begins every session anew.
func (l *leader) askAll(now time.Time) {
	for _, s := range l.subs {
		if s.phase == asking || s.phase == placing || s.phase == running || s.phase == paused {
			s.hurry()
			l.ask(s, now)
		}
	}
}

// reconnected goes on with those whose events the connection did not take.
func (l *leader) reconnected(now time.Time) {
	if l.catchUp.tail == nil {
		return
	}
	for s := range l.sessions.attended {
		if s.phase == paused || s.phase == asking {
			s.hurry()
			l.ask(s, now)
		} else if s.phase == running && !s.sender.Idle() {
			l.question(s, now) // what was in flight may be lost
		}
	}
}
