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

// sender is an instance's side of what it gives up.
type sender struct {
	group       *group
	outgoing    map[string]*outgoing // by key: what this instance gives up
	grants      []Grant              // in order
	granted     map[string]struct{}  // keys in grants
	releasing   int                  // of outgoing: Released or Kept is not noted yet
	unseen      map[string]time.Time // by key: released then, and not seen registered by another
	window      window               // of releasing and unseen
	offers      []string             // keys of outgoing that are offered, or are to be
	handedOver  int                  // since there were no grants
	transferred []time.Duration      // since the last step
}

func newSender(g *group) sender {
	return sender{group: g, outgoing: map[string]*outgoing{}, granted: map[string]struct{}{}, unseen: map[string]time.Time{}, window: newWindow()}
}

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
func (s *sender) grant(key string, to registration.Owner) {
	if _, granted := s.granted[key]; granted || s.outgoing[key] != nil || !s.mayGrant(key, to) {
		return
	}
	if len(s.grants) == 0 && s.sending() == 0 {
		s.window.begin()
	}
	s.granted[key] = struct{}{}
	s.grants = append(s.grants, Grant{key, to})
}

func (s *sender) mayGrant(key string, to registration.Owner) bool {
	return s.group.members != nil && s.group.members.Grants(key, to)
}

// sending is how many are on their way from this instance.
func (s *sender) sending() int { return s.releasing + len(s.unseen) }

// stepGrants releases what was granted, as much as may be on its way.
func (s *sender) stepGrants(now time.Time, fx *Effects) {
	if len(s.grants) == 0 {
		if s.handedOver > 0 && s.releasing == 0 {
			fx.HandedOver, fx.AtOnce, s.handedOver = s.handedOver, s.window.size, 0
		}
		return
	}
	for key, at := range s.unseen {
		if lost := at.Add(UnseenPatience); now.Before(lost) {
			fx.wakeAt(lost)
		} else {
			delete(s.unseen, key)
		}
	}
	for len(s.grants) > 0 && s.sending() < s.window.size {
		g := s.grants[0]
		s.grants = s.grants[1:]
		if _, granted := s.granted[g.Key]; !granted {
			continue // removed meanwhile
		}
		delete(s.granted, g.Key)
		if s.outgoing[g.Key] != nil || !s.mayGrant(g.Key, g.To) {
			continue
		}
		s.outgoing[g.Key] = &outgoing{to: g.To}
		s.releasing++
		fx.Release, fx.More = append(fx.Release, g), true
	}
	if len(s.grants) == 0 {
		s.grants = nil
		fx.More = true
	}
}

// released notes that a subscription is given up. One whose sink has something in hand is not on its way
// yet, for as long as the sink takes.
func (s *sender) released(key string, isDraining bool, now time.Time) {
	o := s.outgoing[key]
	if o == nil || o.state != releasing {
		return
	}
	s.releasing--
	s.handedOver++
	o.state, o.since = draining, now
	if !isDraining {
		s.unseen[key] = now
	}
}

// kept notes that a subscription is not given up.
func (s *sender) kept(key string) {
	if o := s.outgoing[key]; o != nil && o.state == releasing {
		s.releasing--
		delete(s.outgoing, key)
	}
}

// drained notes that a subscription may be offered.
func (s *sender) drained(offer Offer) {
	o := s.outgoing[offer.Key]
	switch {
	case o == nil || o.state != draining:
	case o.keep:
		delete(s.outgoing, offer.Key)
	default:
		o.state, o.offer = drained, offer
		s.offers = append(s.offers, offer.Key)
	}
}

// keepOffer is for a subscription that was configured anew while it was given up, and that this instance
// registers by itself. There is nothing to reclaim.
func (s *sender) keepOffer(key string) {
	switch o := s.outgoing[key]; {
	case o == nil:
	case o.state == drained || o.state == offered:
		s.endOffer(key)
	default:
		o.keep = true
	}
}

// stepOffers tells receivers what they have, and reclaims what they did not accept in time.
func (s *sender) stepOffers(now time.Time, fx *Effects) {
	s.offers = slices.DeleteFunc(s.offers, func(key string) bool {
		o := s.outgoing[key]
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
func (s *sender) seen(in Input, now time.Time) {
	if in.Holder != nil && !in.Mine {
		if released, ok := s.unseen[in.Key]; ok {
			delete(s.unseen, in.Key)
			s.window.observe(released, now, s.group.latency.slow())
		}
	}
	o := s.outgoing[in.Key]
	switch {
	case o == nil || o.state != drained && o.state != offered || in.Revision <= o.offer.Revision:
	case in.Mine:
		o.state, o.offer.Revision, o.until = offered, in.Revision, now
	default:
		s.transferred = append(s.transferred, now.Sub(o.since))
		s.endOffer(in.Key)
	}
}

func (s *sender) endOffer(key string) {
	delete(s.outgoing, key)
	s.offers = slices.DeleteFunc(s.offers, func(offered string) bool { return offered == key })
}

// forget ends what a subscription that is no longer this instance's was to be released for.
func (s *sender) forget(key string) {
	delete(s.granted, key)
	delete(s.unseen, key)
}

// reclaimed notes that what nobody accepted is free.
func (s *sender) reclaimed(key string, now time.Time) {
	if o := s.outgoing[key]; o != nil && o.state == reclaiming {
		s.transferred = append(s.transferred, now.Sub(o.since))
		delete(s.outgoing, key)
	}
}
