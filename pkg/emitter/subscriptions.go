package emitter

import (
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/registration"
)

// subscriptionsLeader does what the subscriptions can't do without waiting.
type subscriptionsLeader interface {
	// checkHistory looks whether the stream has lost events that were delivered.
	checkHistory(delivered uint64)
	// stale looks whether this leader is deposed: a proxy knows a later term.
	stale(term uint64)
	// parkAside parks an event that can't be sent.
	parkAside(s *sub, e *entry, reason error)
}

// subscriptions are all that a leader serves, by their registrations, and what passes between it and their
// proxies: registrations, questions, events and answers. Nothing here waits. The leader's loop owns it.
type subscriptions struct {
	*outside
	leader      subscriptionsLeader
	history     *history
	catchUp     *catchUp
	checkpoints *checkpoints
	obstacles   *obstacles

	byKey    map[string]*sub
	byID     map[uint64]*sub
	lastID   uint64
	sessions sessions
	outbox   outbox
}

// ask begins a session with the proxy that holds the registration.
func (u *subscriptions) ask(s *sub, now time.Time) {
	u.catchUp.detach(s)
	u.sessions.open(s)
	if u.catchUp.tail == nil || u.history.resetting || !u.question(s, now) {
		u.pause(s, now)
	}
}

// askAtOnce asks a proxy whose question was deferred.
func (u *subscriptions) askAtOnce(s *sub) { u.ask(s, time.Now()) }

// askDeferred asks the next of those that can wait.
func (u *subscriptions) askDeferred(now time.Time) {
	for s := u.sessions.nextDeferred(now); s != nil; s = u.sessions.nextDeferred(now) {
		u.ask(s, now)
		u.sessions.await(s)
	}
}

// follows reports whether it is known what the proxy of a new registration took last, without asking it.
func (u *subscriptions) follows(s *sub, stopped registration.Position) bool {
	return stopped.Epoch != "" && stopped.Epoch == u.history.epoch && u.catchUp.tail != nil && !u.history.resetting && s.checkpoint.placed && (s.registration.StartVersion >= 0 || s.checkpoint.durable)
}

// resumeAfterHolder begins a session where the holder before stopped, which said so when it handed the
// subscription over: asking would be most of the pause. Where the proxy knows it otherwise, it says so.
func (u *subscriptions) resumeAfterHolder(s *sub, accepted uint64, now time.Time) {
	if s.sender.Ack(accepted) {
		u.checkpoints.mark(s)
	}
	u.catchUp.detach(s)
	u.sessions.open(s)
	u.resumeFrom(s, accepted, now)
}

// pause waits for a newer registration, or until it is worth asking again.
func (u *subscriptions) pause(s *sub, now time.Time) {
	u.catchUp.detach(s)
	u.sessions.pause(s, now)
}

func (u *subscriptions) answered(a *answer, now time.Time) {
	if a.id == 0 { // no subscription's
		if o := u.outbox.arrived(a.session, now); o != nil {
			for s := o.next(); s != nil; s = o.next() {
				u.catchUp.resume(s)
			}
		}
		return
	}
	s := u.byID[a.id]
	if s == nil {
		return
	}
	switch u.sessions.judge(s, a) {
	case nothing:
	case acknowledged:
		u.acked(s, a.Number, now)
	case outdated:
		u.metrics.Ignored.Inc()
	case unreached:
		u.metrics.Nobody.Inc()
		u.pause(s, now)
	case begins:
		if s.outlet != nil {
			s.outlet.way.Observe(now.Sub(s.askedAt))
		}
		u.begin(s, a.Number, now)
	case misses:
		u.missing(s, a.Number, now)
	case staleTerm:
		u.metrics.Stale.Inc()
		u.leader.stale(a.Number)
	case unreadable:
		u.log.Warn("a proxy can't read what it is sent", "subscription", s.name, "owner", s.registration.Owner.Name)
	}
}

func (u *subscriptions) acked(s *sub, sequence uint64, now time.Time) {
	if !s.acknowledge(sequence) {
		return
	}
	s.progressAt = now
	u.checkpoints.mark(s)
	if s.phase != running {
		return
	}
	s.hurry()
	s.pos = max(s.pos, sequence)
	s.grow()
	if s.segment == nil && s.hasHalfWindow() {
		u.catchUp.resume(s)
	}
}

// begin lets a subscription run whose proxy said what it took last.
func (u *subscriptions) begin(s *sub, last uint64, now time.Time) {
	switch start := s.registration.StartVersion; {
	case s.checkpoint.placed:
	case last > 0 || s.sender.Acked > 0:
		// The proxy knows more than the bucket of checkpoints.
		if s.sender.Acked == 0 {
			s.sender.Acked = s.startPosition() // it has accepted none yet
		}
		s.sender = NewSender(s.sender.Acked)
		s.checkpoint.placed = true
		u.checkpoints.restored++
		u.checkpoints.mark(s)
	default:
		position := u.catchUp.tail.high // of start -1: new events only
		if start >= 0 {
			position, s.loss.fresh = s.startPosition(), start == 0
		}
		s.sender = NewSender(position)
		s.checkpoint.placed = true
	}
	if s.registration.StartVersion < 0 && !s.checkpoint.durable {
		// Were it lost, the next leader would begin later.
		s.phase = placing
		u.checkpoints.hurry()
		u.checkpoints.mark(s)
		return
	}
	u.resumeFrom(s, last, now)
}

// resumeFrom lets a subscription run after what its proxy took last.
func (u *subscriptions) resumeFrom(s *sub, last uint64, now time.Time) {
	u.sessions.run(s, last, now)
	s.reach(u.outbox.roundTripTo(s))
	s.pos = s.sender.Sent
	if known := max(last, s.known()); known > u.catchUp.tail.high {
		u.leader.checkHistory(known)
	}
	u.catchUp.resume(s)
}

// missing goes back to after what the proxy took last.
func (u *subscriptions) missing(s *sub, last uint64, now time.Time) {
	if u.sessions.miss(s, last, now) {
		u.metrics.Rewound.Inc()
		u.catchUp.detach(s)
		s.pos = s.sender.Sent
	} else {
		s.pos = max(s.pos, s.sender.Sent)
	}
	u.catchUp.resume(s)
}

// askAll begins every session anew.
func (u *subscriptions) askAll(now time.Time) {
	for _, s := range u.byKey {
		if s.phase == asking || s.phase == placing || s.phase == running || s.phase == paused {
			s.hurry()
			u.ask(s, now)
		}
	}
}

// reconnected goes on with those whose events the connection did not take.
func (u *subscriptions) reconnected(now time.Time) {
	if u.catchUp.tail == nil {
		return
	}
	for s := range u.sessions.attended {
		if s.phase == paused || s.phase == asking {
			s.hurry()
			u.ask(s, now)
		} else if s.phase == running && !s.sender.Idle() {
			u.question(s, now) // what was in flight may be lost
		}
	}
}

// unsent deals with an event that the connection does not take: there is none, or it is too large with its
// headers.
func (u *subscriptions) unsent(s *sub, e *entry, err error) bool {
	if !errors.Is(err, nats.ErrMaxPayload) {
		u.pause(s, time.Now())
		return false
	}
	if s.parked == e.event.Sequence {
		return true // it is seen to: the next one goes on
	}
	// Whoever is to get it can't, with any number of attempts. What comes before it is in flight or
	// accepted.
	u.pause(s, time.Now())
	s.askWait = stallAfter
	if !s.parking {
		s.parking = true
		u.leader.parkAside(s, e, err)
	}
	return false
}

// checkProgress looks after a subscription that was asked, is paused, or has events in flight.
func (u *subscriptions) checkProgress(s *sub, now time.Time) {
	s.way = u.outbox.wayOf(s)
	switch u.sessions.due(s, now) {
	case noNeed:
	case toBeAsked:
		u.ask(s, now)
	case toBeQuestioned:
		u.checkpoints.markBeginning(s)
		u.question(s, now)
	}
}

func (u *subscriptions) forget(now time.Time) {
	defer u.outbox.forgetOutlets(u.byKey)
	for key, s := range u.byKey {
		if s.phase == absent && now.Sub(s.absentFrom) >= forgetAfter && !s.checkpoint.writing && !u.checkpoints.isMarked(s) {
			delete(u.byKey, key)
			delete(u.byID, s.id)
		}
	}
}

// entry takes one entry of the registry.
func (u *subscriptions) entry(r *record, now time.Time) {
	s := u.byKey[r.Key()]
	if r.DeliverSubject == "" { // it was released, or deleted
		if s != nil && s.phase != absent && r.revision > s.registration.revision {
			u.catchUp.detach(s)
			u.catchUp.index.remove(s)
			u.sessions.release(s, r.Incarnation, now)
			s.registration.revision = r.revision
			u.catchUp.gaps.forgetLoss(s)
		}
		return
	}
	if s != nil && r.revision <= s.registration.revision {
		return
	}
	if s == nil {
		u.lastID++
		s = &sub{id: u.lastID, key: r.Key(), name: r.Name, flow: flow{window: firstWindow}}
		u.byKey[s.key], u.byID[s.id] = s, s
	}
	old, attached := s.registration, s.phase == running && s.segment == u.catchUp.tail && s.sender.Idle()
	s.registration = *r
	superseded := u.sessions.register(s, old.Registration, r.Registration)
	if superseded {
		u.catchUp.gaps.permit(s, r.Cause)
	}
	s.local = u.local != nil && strings.HasPrefix(r.DeliverSubject, u.local.Prefix())
	u.outbox.route(s)
	if s.phase == absent {
		if err := u.catchUp.index.add(s, r.Subscription); err != nil {
			u.log.Warn("a registration can't be served", "subscription", s.name, "error", err)
			return
		}
	}
	switch {
	case s.phase == absent && s.checkpoint.placed && r.Cause == registration.Takeover && now.Sub(s.absentFrom) < movesWithin:
		s.hurry()
		u.ask(s, now)
	case s.phase == absent: // the checkpoint is looked at again: it may have been deleted by hand, to begin anew
		u.checkpoints.want(s)
		s.phase = loading
	case s.phase == loading:
	case superseded && u.follows(s, r.HandedOver):
		u.resumeAfterHolder(s, r.HandedOver.Accepted, now)
	case superseded && attached && !u.history.resetting:
		u.catchUp.detach(s)
		u.sessions.deferAsk(s, now)
	case s.phase != running || old.DeliverSubject != r.DeliverSubject || superseded:
		s.hurry()
		u.ask(s, now)
	}
}

// listen notes where proxies answer.
func (u *subscriptions) listen(replies string) {
	u.sessions.replies, u.outbox.replies = replies, replies
}

// send sends one event. It reports false where that could not be done, and the subscription no longer runs.
func (u *subscriptions) send(s *sub, e *entry) bool {
	wasIdle, before := s.sender.Idle(), s.sender.Sent
	if err := u.outbox.send(s, e, s.sender.Send(e.event.Sequence)); err != nil {
		s.sender.unsend(before)
		return u.unsent(s, e, err)
	}
	s.sent(e.event.Sequence, e.size)
	s.loss.fresh = false
	u.metrics.Sent.Inc()
	if wasIdle {
		u.sessions.sent(s, time.Now())
	}
	return true
}

// question asks, in a session or to begin one.
func (u *subscriptions) question(s *sub, now time.Time) bool {
	s.way = u.outbox.wayOf(s)
	u.sessions.asked(s, now)
	return u.outbox.question(s, u.history.epoch)
}

// pauseAll sends nothing more to anybody until the history is known.
func (u *subscriptions) pauseAll(now time.Time) {
	for _, s := range u.byKey {
		if s.phase == running || s.phase == placing || s.phase == asking {
			u.pause(s, now)
		}
	}
}
