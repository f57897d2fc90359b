package placement

import (
	"github.com/exesdb/subproxy/pkg/registration"
)

// Members is what an instance knows of those that it shares subscriptions with, at a time. It does not
// change.
//
// The rules:
//
//   - A subscription that nobody holds, or whose holder is gone, is claimed by the member that should hold it.
//   - A member that should hold a subscription more than its holder requests it from the holder.
//   - The holder grants the request if it sees the members in the same way. It drains the subscription, and offers it.
//   - Nothing is given up otherwise: the member that a subscription moves to is known to be there and to want it.
//
// Of what the others are configured with only the stores need to be known. Where the best-ranked member
// does not know a subscription it does nothing about it, and the next one's turn comes. So of those that
// know it the best-ranked has it in the end.
type Members struct {
	all        []Member
	rendezvous *Rendezvous
	liveness   func(registration.Owner) Liveness
	self       registration.Owner
	hasOthers  bool
}

// Liveness says whether the owner of a registration lives.
type Liveness uint8

// What is known of an owner.
const (
	Alive   Liveness = iota
	Gone             // it lived, and does so no longer
	Unknown          // nothing was ever heard of it: it is gone, or has come just now
)

// NewMembers is for the instance self. The function tells of the owners of registrations.
func NewMembers(self registration.Owner, members []Member, liveness func(registration.Owner) Liveness) *Members {
	m := &Members{all: members, rendezvous: NewRendezvous(members), liveness: liveness, self: self}
	for _, other := range members {
		m.hasOthers = m.hasOthers || other.Name != self.Name && !other.Draining
	}
	return m
}

// UnknownMembers is for an instance that shares and was told nothing yet: it claims what is free, and
// everybody lives.
func UnknownMembers(self registration.Owner) *Members {
	return NewMembers(self, nil, func(registration.Owner) Liveness { return Alive })
}

// Of are those of them that share a store; nil for nil.
func (m *Members) Of(store string) *Members {
	if m == nil {
		return nil
	}
	var some []Member
	for _, other := range m.all {
		if other.Has == nil || other.Has(store) {
			some = append(some, other)
		}
	}
	return NewMembers(m.self, some, m.liveness)
}

// Action is what an instance should do about a subscription that it does not hold.
type Action uint8

// The actions.
const (
	Leave   Action = iota // its holder should keep it
	Claim                 // nobody holds it: write a registration, conditional on what was seen
	Request               // request it from its holder
)

// Decide is the rule for the subscription with that key, held by holder (nil: nobody). Rank is how many
// members may act on it before this instance.
func (m *Members) Decide(key string, holder *registration.Owner) (action Action, rank int) {
	liveness := Gone
	if holder != nil {
		liveness = m.LivenessOf(*holder)
	}
	switch {
	case liveness == Gone:
		return Claim, m.rendezvous.Rank(key, m.self.Name)
	case liveness == Unknown:
		return Claim, m.rendezvous.Rank(key, m.self.Name) + 1 // unless the holder is heard of meanwhile
	case m.rendezvous.Prefers(key, m.self.Name, holder.Name):
		return Request, m.rendezvous.Rank(key, m.self.Name)
	default:
		return Leave, 0
	}
}

// Grants reports whether this instance, which holds the subscription with that key, should hand it over to
// the one that requests it.
func (m *Members) Grants(key string, to registration.Owner) bool {
	return to.Name != m.self.Name && m.liveness(to) == Alive && m.rendezvous.Prefers(key, to.Name, m.self.Name)
}

// LivenessOf is Gone for other runs of this instance's own name: this instance is here to replace them.
func (m *Members) LivenessOf(o registration.Owner) Liveness {
	if o.Name == m.self.Name && o.ID != m.self.ID {
		return Gone
	}
	return m.liveness(o)
}

// HasShare reports whether this instance is to hold anything.
func (m *Members) HasShare() bool { return m.rendezvous.share(m.self.Name) != nil }

// HasOthers reports whether somebody else is there to claim what this instance leaves.
func (m *Members) HasOthers() bool { return m.hasOthers }
