package supervisor

import (
	"encoding/json"
	"time"

	"github.com/exesdb/subproxy/pkg/payload"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/rebalance"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

// Which subscriptions move between instances, and when, is for package rebalance to say. The loop notes
// there what happens, and performs what it says: it steps proxies, sends messages, and releases records.

// Share tells who the subscriptions are shared with, at the start and whenever that is another.
func (s *Supervisor) Share(members []placement.Member, liveness func(registration.Owner) placement.Liveness) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.members.Store(placement.NewMembers(s.owner, members, liveness))
	for _, l := range s.loops {
		l.inbox.post((*loop).shareAnew)
	}
}

// HandOver passes on that another instance requests subscriptions that this one may hold.
func (s *Supervisor) HandOver(r status.HandOver) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if l := s.loops[r.Store]; l != nil {
		l.inbox.post(func(l *loop, now time.Time) { l.requested(&r, now) })
	}
}

// HandedOver passes on that another instance offers subscriptions to this one.
func (s *Supervisor) HandedOver(m status.HandedOver) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if l := s.loops[m.Store]; l != nil {
		l.inbox.post(func(l *loop, _ time.Time) { l.acceptOffers(&m) })
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
		l.step(it, proxy.Input{Kind: proxy.Unassigned}, now)
		l.actions.settle(it, now)
		return
	}
	l.transfers.Note(rebalance.Input{Kind: rebalance.Held, Key: it.key}, now)
	l.step(it, proxy.Input{Kind: proxy.Start, SeenAt: now, Level: l.level.Load()}, now)
}

// releasable reports whether all is well with the registration: only then it is known what it is registered
// at.
func (it *managed) releasable() bool {
	p := &it.proxy
	return !it.removed && p.Registered && p.Failures == 0 && !p.Standby && !p.Attempt.UnderWay
}

// acceptOffers registers what another instance offers.
func (l *loop) acceptOffers(m *status.HandedOver) {
	l.agenda.add(l.agenda.steps(len(m.Subscriptions), func(i int, now time.Time) {
		h := m.Subscriptions[i]
		it := l.byName[h.Name]
		if it == nil || !it.proxy.Standby || !l.transfers.Accepts(it.key) {
			return
		}
		l.step(it, proxy.Input{Kind: proxy.Offered, News: proxy.News{Revision: h.Revision, Incarnation: h.Incarnation, Owner: m.From, Place: h.Position}}, now)
		if !it.proxy.Standby {
			l.metrics.Moves.WithLabelValues("claimed").Inc()
		}
		if it.proxy.Attempt.UnderWay {
			l.transfers.Note(rebalance.Input{Kind: rebalance.Accepted, Key: it.key}, now)
		}
	}))
}

// transfer does what is to be done now about subscriptions that are on their way.
func (l *loop) transfer(now time.Time, _ *int) (more bool) {
	l.dispatcher.noteDrained(now)
	fx := l.transfers.Step(now)
	l.claim(fx.Claim)
	l.releaseFor(fx.Release, now)
	for _, r := range fx.Request {
		l.sendRequest(r, now)
	}
	for _, o := range fx.Offer {
		l.sendOffers(o, now)
	}
	l.dispatcher.reclaim(fx.Reclaim)
	for _, took := range fx.Transferred {
		l.metrics.MoveSeconds.WithLabelValues("release").Observe(took.Seconds())
	}
	if fx.HandedOver > 0 {
		l.log.Info("subscriptions were handed over", "subscriptions", fx.HandedOver, "at_once", fx.AtOnce)
	}
	if !fx.Next.IsZero() {
		sooner(&l.wake, fx.Next)
	}
	return fx.More
}

// claim registers what nobody holds.
func (l *loop) claim(keys []string) {
	l.agenda.add(l.agenda.steps(len(keys), func(i int, now time.Time) {
		if it := l.withKey(keys[i]); it != nil && it.proxy.Standby {
			l.metrics.Moves.WithLabelValues("claimed").Inc()
			l.step(it, proxy.Input{Kind: proxy.Assigned}, now)
		}
	}))
}

// releaseFor releases subscriptions for others that requested them.
func (l *loop) releaseFor(grants []rebalance.Grant, now time.Time) {
	for _, g := range grants {
		it, before := l.withKey(g.Key), len(l.dispatcher.releases)
		if it != nil && it.releasable() {
			l.step(it, proxy.Input{Kind: proxy.Unassigned}, now)
		}
		if len(l.dispatcher.releases) > before {
			l.metrics.Moves.WithLabelValues("yielded").Inc()
			continue
		}
		l.transfers.Note(rebalance.Input{Kind: rebalance.Kept, Key: g.Key}, now)
		if it != nil {
			l.noteStandby(it, now)
		}
	}
}

// sendRequest asks a holder for subscriptions. One that does not hear it will be asked again.
func (o *roster) sendRequest(r rebalance.Request, now time.Time) {
	names := make([]string, 0, len(r.Keys))
	for _, key := range r.Keys {
		if name, err := nameOf(key); err == nil {
			names = append(names, name)
		}
	}
	for _, part := range payload.Parts(names, len(names), o.room(), func(name *string) int { return payload.Text(*name) }) {
		o.sendTransfer(r.Holder, status.HandOver{
			Envelope: status.NewEnvelope(status.HandOverType, now), Store: o.store, Names: part, To: o.owner,
		})
	}
}

// sendOffers tells a member what it may register. What it does not hear of is reclaimed.
func (o *roster) sendOffers(offers rebalance.Offers, now time.Time) {
	all := make([]status.Handed, 0, len(offers.Offers))
	for _, offer := range offers.Offers {
		if name, err := nameOf(offer.Key); err == nil {
			all = append(all, status.Handed{Name: name, Revision: offer.Revision, Incarnation: offer.Incarnation, Position: offer.At})
		}
	}
	for _, part := range payload.Parts(all, rebalance.MaxWindow, o.room(), (*status.Handed).Size) {
		o.sendTransfer(offers.To, status.HandedOver{
			Envelope: status.NewEnvelope(status.HandedOverType, now), Store: o.store, Subscriptions: part, From: o.owner,
		})
	}
}

func (o *roster) sendTransfer(to registration.Owner, message any) {
	subject := status.HandOverSubject(to.ID)
	data, err := json.Marshal(message)
	if err == nil {
		err = o.publisher(subject, data)
	}
	if err != nil {
		o.untold(subject, err)
	}
}
