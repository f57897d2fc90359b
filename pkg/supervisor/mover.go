package supervisor

import (
	"encoding/json"
	"time"

	"github.com/exesdb/subproxy/pkg/payload"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/rebalance"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

// mover moves subscriptions between this instance and others. Which move, and when, is for package rebalance
// to say: the loop notes there what happens, and the mover performs what it says. It steps proxies, sends
// messages, and releases records. It belongs to the loop's goroutine.
type mover struct {
	*roster
	stepper    *stepper
	dispatcher *dispatcher
	agenda     *agenda
}

// transfer does what is to be done now about subscriptions that are on their way.
func (m *mover) transfer(now time.Time, wake *time.Time) (more bool) {
	m.dispatcher.noteDrained(now)
	fx := m.transfers.Step(now)
	m.claim(fx.Claim)
	m.releaseFor(fx.Release, now)
	for _, r := range fx.Request {
		m.sendRequest(r, now)
	}
	for _, o := range fx.Offer {
		m.sendOffers(o, now)
	}
	m.dispatcher.reclaim(fx.Reclaim)
	for _, took := range fx.Transferred {
		m.metrics.MoveSeconds.WithLabelValues("release").Observe(took.Seconds())
	}
	if fx.HandedOver > 0 {
		m.log.Info("subscriptions were handed over", "subscriptions", fx.HandedOver, "at_once", fx.AtOnce)
	}
	if !fx.Next.IsZero() {
		sooner(wake, fx.Next)
	}
	return fx.More
}

// claim registers what nobody holds.
func (m *mover) claim(keys []string) {
	m.agenda.add(m.agenda.steps(len(keys), func(i int, now time.Time) {
		if it := m.withKey(keys[i]); it != nil && it.proxy.Standby {
			m.metrics.Moves.WithLabelValues("claimed").Inc()
			m.stepper.step(it, proxy.Input{Kind: proxy.Assigned}, now)
		}
	}))
}

// releaseFor releases subscriptions for others that requested them.
func (m *mover) releaseFor(grants []rebalance.Grant, now time.Time) {
	for _, g := range grants {
		it, before := m.withKey(g.Key), len(m.dispatcher.releases)
		if it != nil && it.releasable() {
			m.stepper.step(it, proxy.Input{Kind: proxy.Unassigned}, now)
		}
		if len(m.dispatcher.releases) > before {
			m.metrics.Moves.WithLabelValues("yielded").Inc()
			continue
		}
		m.transfers.Note(rebalance.Input{Kind: rebalance.Kept, Key: g.Key}, now)
		if it != nil {
			m.noteStandby(it, now)
		}
	}
}

// sendRequest asks a holder for subscriptions. One that does not hear it will be asked again.
func (m *mover) sendRequest(r rebalance.Request, now time.Time) {
	names := make([]string, 0, len(r.Keys))
	for _, key := range r.Keys {
		if name, err := nameOf(key); err == nil {
			names = append(names, name)
		}
	}
	for _, part := range payload.Parts(names, len(names), m.room(), func(name *string) int { return payload.Text(*name) }) {
		m.sendTransfer(r.Holder, status.HandOver{
			Envelope: status.NewEnvelope(status.HandOverType, now), Store: m.store, Names: part, To: m.owner,
		})
	}
}

// sendOffers tells a member what it may register. What it does not hear of is reclaimed.
func (m *mover) sendOffers(offers rebalance.Offers, now time.Time) {
	all := make([]status.Handed, 0, len(offers.Offers))
	for _, offer := range offers.Offers {
		if name, err := nameOf(offer.Key); err == nil {
			all = append(all, status.Handed{Name: name, Revision: offer.Revision, Incarnation: offer.Incarnation, Position: offer.At})
		}
	}
	for _, part := range payload.Parts(all, rebalance.MaxWindow, m.room(), (*status.Handed).Size) {
		m.sendTransfer(offers.To, status.HandedOver{
			Envelope: status.NewEnvelope(status.HandedOverType, now), Store: m.store, Subscriptions: part, From: m.owner,
		})
	}
}

func (m *mover) sendTransfer(to registration.Owner, message any) {
	subject := status.HandOverSubject(to.ID)
	data, err := json.Marshal(message)
	if err == nil {
		err = m.publisher(subject, data)
	}
	if err != nil {
		m.untold(subject, err)
	}
}

// acceptOffers registers what another instance offers.
func (m *mover) acceptOffers(offers *status.HandedOver) {
	m.agenda.add(m.agenda.steps(len(offers.Subscriptions), func(i int, now time.Time) {
		h := offers.Subscriptions[i]
		it := m.byName[h.Name]
		if it == nil || !it.proxy.Standby || !m.transfers.Accepts(it.key) {
			return
		}
		m.stepper.step(it, proxy.Input{Kind: proxy.Offered, News: proxy.News{Revision: h.Revision, Incarnation: h.Incarnation, Owner: offers.From, Place: h.Position}}, now)
		if !it.proxy.Standby {
			m.metrics.Moves.WithLabelValues("claimed").Inc()
		}
		if it.proxy.Attempt.UnderWay {
			m.transfers.Note(rebalance.Input{Kind: rebalance.Accepted, Key: it.key}, now)
		}
	}))
}

// requested notes which of the subscriptions that another instance requests it could be given.
func (m *mover) requested(r *status.HandOver, now time.Time) {
	for _, name := range r.Names {
		if it := m.byName[name]; it != nil && it.releasable() {
			m.transfers.Note(rebalance.Input{Kind: rebalance.Requested, Key: it.key, Holder: &r.To}, now)
		}
	}
}
