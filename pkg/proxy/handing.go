package proxy

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/health"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/payload"
	"github.com/exesdb/subproxy/pkg/registrar"
	"github.com/exesdb/subproxy/pkg/registration"
)

// What an instance leaves to one that asked for it is not deleted: the one that asked is told, and writes over the record. So a
// subscription is nobody's for as long as one message and one write take, and the others hear of one write, not of two.

// handPatience is how long whoever asked has to register what was left to it. Then it is released for anybody.
const handPatience = 500 * time.Millisecond

// handed is a subscription that was left to another instance, which has not been seen to register it.
type handed struct {
	release
	until time.Time
}

// handOver tells those who asked for what is to be released that they have it.
func (l *loop) handOver(now time.Time) {
	if len(l.releases) == 0 || l.retired.Load() {
		return
	}
	given := map[registration.Owner][]health.Handed{}
	l.releases = slices.DeleteFunc(l.releases, func(r release) bool {
		if r.to == nil || !isClosed(r.drained) {
			return false
		}
		l.given[r.item] = handed{r, now.Add(handPatience)}
		given[*r.to] = append(given[*r.to], health.Handed{
			Name: r.item.proxy.Name, Revision: r.Revision, Incarnation: r.Incarnation, Position: r.from.place(),
		})
		return true
	})
	for to, all := range given {
		for _, subscriptions := range payload.Parts(all, mostAway, l.room(), (*health.Handed).Size) {
			m := health.HandedOver{Envelope: health.NewEnvelope(health.HandedOverType, now), Store: l.store, Subscriptions: subscriptions, From: l.owner}
			data, err := json.Marshal(m)
			if err == nil {
				err = l.publisher(health.HandOverSubject(to.ID), data)
			}
			if err != nil {
				l.untold(health.HandOverSubject(to.ID), err) // it is released
			}
		}
	}
}

// takeBack releases what was left to others and is not taken.
func (l *loop) takeBack(now time.Time, wake *time.Time) {
	for it, h := range l.given {
		if now.Before(h.until) {
			sooner(wake, h.until)
			continue
		}
		delete(l.given, it)
		if again := l.withKey(it.key); it.removed && again != nil && !again.proxy.Standby { // it is configured anew, and registers by itself
			l.left(it, now)
			continue
		}
		h.to = nil
		l.releases = append(l.releases, h.release)
		sooner(wake, now) // the next turn launches it
	}
}

// passed notes what became of what was left to another. An own write that comes late is not that one's: it is no good to it, and is
// released.
func (l *loop) passed(it *item, e *kv.Entry, now time.Time) {
	h, ok := l.given[it]
	switch {
	case !ok || e.Revision <= h.Revision:
	case e.Contains(l.matcher):
		h.Revision, h.until = e.Revision, now
		l.given[it] = h
	default:
		delete(l.given, it)
		l.left(it, now)
	}
}

// took notes that what was left to this instance is registered, or that it was not to be.
func (l *loop) took(it *item, o *registrar.Result, now time.Time) {
	if !it.taking {
		return
	}
	it.taking = false
	l.takes--
	if o != nil && o.Err == nil && !o.Superseded {
		l.appetite.arrived(it.proxy.CauseAt, now, l.quickest.slow())
	}
}

// left notes that a subscription is no longer on its way from here.
func (l *loop) left(it *item, now time.Time) {
	l.metrics.MoveSeconds.WithLabelValues("release").Observe(now.Sub(it.way.leaving).Seconds())
	it.way = nil
}

// HandedOver passes on that another instance left subscriptions to this one.
func (s *Supervisor) HandedOver(m health.HandedOver) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if l := s.loops[m.Store]; l != nil {
		l.inbox.ask(request{do: func(l *loop, now time.Time) { l.take(&m, now) }})
	}
}

// take claims what was left to this instance, also where it would not ask for it any more: nobody serves it, and whom it suits better
// asks this one. Unless this one is to hold nothing; then its holder releases it.
func (l *loop) take(m *health.HandedOver, now time.Time) {
	peers := l.peers()
	if peers == nil || !peers.HasShare() {
		return
	}
	for i, h := range m.Subscriptions {
		it := l.byName[h.Name]
		if it == nil || it.removed || it.way.released() || !it.proxy.Standby {
			continue
		}
		l.step(it, Input{Kind: Offered, News: News{Revision: h.Revision, Incarnation: h.Incarnation, Owner: m.From, Place: h.Position}}, now)
		if !it.proxy.Standby {
			l.metrics.Moves.WithLabelValues("claimed").Inc()
		}
		if it.proxy.Attempting && !it.taking {
			it.taking = true
			l.takes++
		}
		l.breathe(i)
	}
}
