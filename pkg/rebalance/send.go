package rebalance

import (
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/registration"
)

const (
	// OfferPatience is how long a receiver has to register what was offered to it. Then it is reclaimed.
	OfferPatience = 500 * time.Millisecond
	// UnseenPatience is how long a subscription that was released counts as on its way: then the one that
	// requested it is gone, or others claim it by turns.
	UnseenPatience = time.Second
)

// outgoing is a subscription that this instance gives up.
type outgoing struct {
	to    registration.Owner
	since time.Time // when it was released; zero: that was not noted yet
	state outgoingState
	offer Offer
	until time.Time // it is offered so long
	keep  bool      // this instance registers it again, and offers it no more
}

// outgoingState is how far this instance is with giving up a subscription.
type outgoingState uint8

const (
	releasing  outgoingState = iota // an effect says so; Released or Kept is not noted yet
	draining                        // its sink has something in hand
	drained                         // it is to be offered
	offered                         // to the member that requested it
	reclaiming                      // its record is to be deleted
)

// grant notes what another instance requested. It is handed over in turn.
func (r *Rebalancer) grant(key string, to registration.Owner) {
	if _, granted := r.granted[key]; granted || r.outgoing[key] != nil || !r.mayGrant(key, to) {
		return
	}
	if len(r.grants) == 0 && r.sending() == 0 {
		r.sendWindow.begin()
	}
	r.granted[key] = struct{}{}
	r.grants = append(r.grants, Grant{key, to})
}

func (r *Rebalancer) mayGrant(key string, to registration.Owner) bool {
	return r.members != nil && r.members.Grants(key, to)
}

// sending is how many are on their way from this instance.
func (r *Rebalancer) sending() int { return r.releasing + len(r.unseen) }

// stepGrants releases what was granted, as much as may be on its way.
func (r *Rebalancer) stepGrants(now time.Time, fx *Effects) {
	if len(r.grants) == 0 {
		if r.handedOver > 0 && r.releasing == 0 {
			fx.HandedOver, fx.AtOnce, r.handedOver = r.handedOver, r.sendWindow.size, 0
		}
		return
	}
	for key, at := range r.unseen {
		if lost := at.Add(UnseenPatience); now.Before(lost) {
			fx.wakeAt(lost)
		} else {
			delete(r.unseen, key)
		}
	}
	for len(r.grants) > 0 && r.sending() < r.sendWindow.size {
		g := r.grants[0]
		r.grants = r.grants[1:]
		if _, granted := r.granted[g.Key]; !granted {
			continue // removed meanwhile
		}
		delete(r.granted, g.Key)
		if r.outgoing[g.Key] != nil || !r.mayGrant(g.Key, g.To) {
			continue
		}
		r.outgoing[g.Key] = &outgoing{to: g.To}
		r.releasing++
		fx.Release, fx.More = append(fx.Release, g), true
	}
	if len(r.grants) == 0 {
		r.grants = nil
		fx.More = true
	}
}

// released notes that a subscription is given up. One whose sink has something in hand is not on its way
// yet, for as long as the sink takes.
func (r *Rebalancer) released(key string, isDraining bool, now time.Time) {
	o := r.outgoing[key]
	if o == nil || o.state != releasing {
		return
	}
	r.releasing--
	r.handedOver++
	o.state, o.since = draining, now
	if !isDraining {
		r.unseen[key] = now
	}
}

// kept notes that a subscription is not given up.
func (r *Rebalancer) kept(key string) {
	if o := r.outgoing[key]; o != nil && o.state == releasing {
		r.releasing--
		delete(r.outgoing, key)
	}
}

// drained notes that a subscription may be offered.
func (r *Rebalancer) drained(offer Offer) {
	o := r.outgoing[offer.Key]
	switch {
	case o == nil || o.state != draining:
	case o.keep:
		delete(r.outgoing, offer.Key)
	default:
		o.state, o.offer = drained, offer
		r.offers = append(r.offers, offer.Key)
	}
}

// keepOffer is for a subscription that was configured anew while it was given up, and that this instance
// registers by itself. There is nothing to reclaim.
func (r *Rebalancer) keepOffer(key string) {
	switch o := r.outgoing[key]; {
	case o == nil:
	case o.state == drained || o.state == offered:
		r.endOffer(key)
	default:
		o.keep = true
	}
}

// stepOffers tells receivers what they have, and reclaims what they did not accept in time.
func (r *Rebalancer) stepOffers(now time.Time, fx *Effects) {
	r.offers = slices.DeleteFunc(r.offers, func(key string) bool {
		o := r.outgoing[key]
		if o.state == drained {
			o.state, o.until = offered, now.Add(OfferPatience)
			fx.offer(o.to, o.offer)
		}
		if now.Before(o.until) {
			fx.wakeAt(o.until)
			return false
		}
		o.state = reclaiming
		fx.Reclaim = append(fx.Reclaim, o.offer)
		return true
	})
}

func (fx *Effects) offer(to registration.Owner, offer Offer) {
	i := slices.IndexFunc(fx.Offer, func(o Offers) bool { return o.To == to })
	if i < 0 {
		i = len(fx.Offer)
		fx.Offer = append(fx.Offer, Offers{To: to})
	}
	fx.Offer[i].Offers = append(fx.Offer[i].Offers, offer)
}

// seen follows what the bucket shows of a subscription.
//
//   - The record of another instance: a transfer from here has arrived.
//   - Any entry of others after the record that was offered: the offer has ended.
//   - A late write of this instance after it: the receiver's conditional write will fail on it, so it is reclaimed.
func (r *Rebalancer) seen(in Input, now time.Time) {
	if in.Taken {
		r.claimSeenAt = now
	}
	if in.Holder != nil && !in.Mine {
		if released, ok := r.unseen[in.Key]; ok {
			delete(r.unseen, in.Key)
			r.sendWindow.observe(released, now, r.latency.slow())
		}
	}
	o := r.outgoing[in.Key]
	switch {
	case o == nil || o.state != drained && o.state != offered || in.Revision <= o.offer.Revision:
	case in.Mine:
		o.state, o.offer.Revision, o.until = offered, in.Revision, now
	default:
		r.transferred = append(r.transferred, now.Sub(o.since))
		r.endOffer(in.Key)
	}
}

func (r *Rebalancer) endOffer(key string) {
	delete(r.outgoing, key)
	r.offers = slices.DeleteFunc(r.offers, func(offered string) bool { return offered == key })
}

// reclaimed notes that what nobody accepted is free.
func (r *Rebalancer) reclaimed(key string, now time.Time) {
	if o := r.outgoing[key]; o != nil && o.state == reclaiming {
		r.transferred = append(r.transferred, now.Sub(o.since))
		delete(r.outgoing, key)
	}
}
