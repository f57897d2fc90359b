package supervisor

import (
	"time"

	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/rebalance"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

// Share tells who the subscriptions are shared with, at the start and whenever that is another.
func (s *Supervisor) Share(members []placement.Member, liveness func(registration.Owner) placement.Liveness) {
	s.members.Store(placement.NewMembers(s.owner, members, liveness))
	s.loops.post((*loop).shareAnew)
}

// HandOver passes on that another instance requests subscriptions that this one may hold.
func (s *Supervisor) HandOver(r status.HandOver) {
	if l := s.loops.of(r.Store); l != nil {
		l.inbox.post(func(l *loop, now time.Time) { l.mover.requested(&r, now) })
	}
}

// HandedOver passes on that another instance offers subscriptions to this one.
func (s *Supervisor) HandedOver(m status.HandedOver) {
	if l := s.loops.of(m.Store); l != nil {
		l.inbox.post(func(l *loop, _ time.Time) { l.mover.acceptOffers(&m) })
	}
}

// shareAnew is for when the members are others than before.
func (l *loop) shareAnew(now time.Time) {
	l.transfers.Note(rebalance.Input{Kind: rebalance.MembersChanged, Members: l.members.Load().Of(l.store)}, now)
	l.agenda.add(l.each(l.noteStandby))
}

// start begins with a proxy: it is registered, or it stands by where another instance should hold the
// subscription.
func (l *loop) start(it *managed, now time.Time) {
	if !l.transfers.MayStart(it.key, it.proxy.Record.Holder) {
		l.stepper.step(it, proxy.Input{Kind: proxy.Unassigned}, now)
		l.actions.settle(it)
		return
	}
	l.transfers.Note(rebalance.Input{Kind: rebalance.Held, Key: it.key}, now)
	l.stepper.step(it, proxy.Input{Kind: proxy.Start, SeenAt: now, Level: l.level.Load()}, now)
}

// releasable reports whether all is well with the registration: only then it is known what it is registered
// at.
func (it *managed) releasable() bool {
	p := &it.proxy
	return !it.removed && p.Registered && p.Failures == 0 && !p.Standby && !p.Attempt.UnderWay
}
