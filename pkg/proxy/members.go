package proxy

import "github.com/exesdb/subproxy/pkg/registry"

// Members is what an instance knows of those that it shares subscriptions with, at a time. It does not change.
//
// These are the rules of sharing. A subscription that nobody holds, or one that is dead, is claimed by the member that it
// suits best. Whoever it suits better than its holder asks that one for it, and the holder, if it sees the same, drains it and
// leaves it to that one. So what moves is pulled by the one that it moves to, and nothing is given up that nobody is there to take.
//
// Of what the others are configured with only the stores need to be known. Where the best suited does not know the subscription, and so
// does nothing, the next one's turn comes, and of those that know it the best suited has it in the end.
type Members struct {
	all     []Member
	sharing *Sharing
	lives   func(registry.Owner) Life
	self    registry.Owner
	others  bool // somebody else is there to take what this instance leaves
}

// Life says whether the owner of a registration lives.
type Life uint8

// The lives.
const (
	Alive   Life = iota
	Gone         // it lived, and does so no longer
	Unknown      // it was never heard of: it is gone, or has come just now
)

// NewMembers is for the instance self. Lives tells of the owners of registrations.
func NewMembers(self registry.Owner, members []Member, lives func(registry.Owner) Life) *Members {
	m := &Members{all: members, sharing: NewSharing(members), lives: lives, self: self}
	for _, other := range members {
		m.others = m.others || other.Name != self.Name && !other.Draining
	}
	return m
}

// unknownMembers is for an instance that shares and was told nothing yet: it takes what is free, and everybody lives.
func unknownMembers(self registry.Owner) *Members {
	return NewMembers(self, nil, func(registry.Owner) Life { return Alive })
}

// of are those of them that share a store.
func (m *Members) of(store string) *Members {
	if m == nil {
		return nil
	}
	var some []Member
	for _, other := range m.all {
		if other.Has == nil || other.Has(store) {
			some = append(some, other)
		}
	}
	return NewMembers(m.self, some, m.lives)
}

// Move is what an instance should do about a subscription that it does not hold.
type Move uint8

// The moves.
const (
	Rest  Move = iota // leave it to its holder
	Claim             // nobody holds it: write a registration, conditional on what was seen
	Ask               // ask its holder for it
)

// Move is the rule for the subscription with that key, held by holder (nil: nobody). It is this instance's turn after those
// that are ahead had theirs.
func (m *Members) Move(key string, holder *registry.Owner) (move Move, ahead int) {
	life := Gone
	if holder != nil {
		life = m.life(*holder)
	}
	switch {
	case life == Gone:
		return Claim, m.sharing.Ahead(key, m.self.Name)
	case life == Unknown:
		return Claim, m.sharing.Ahead(key, m.self.Name) + 1 // unless it is heard of meanwhile
	case m.sharing.Suits(key, m.self.Name, holder.Name):
		return Ask, m.sharing.Ahead(key, m.self.Name)
	default:
		return Rest, 0
	}
}

// life is Gone for other runs of this instance's own name: it is here to replace them.
func (m *Members) life(o registry.Owner) Life {
	if o.Name == m.self.Name && o.ID != m.self.ID {
		return Gone
	}
	return m.lives(o)
}

// shares reports whether this instance is to hold anything.
func (m *Members) shares() bool { return m.sharing.share(m.self.Name) != nil }

// Yields reports whether this instance, which holds the subscription with that key, should give it to one that asks.
func (m *Members) Yields(key string, to registry.Owner) bool {
	return to.Name != m.self.Name && m.lives(to) == Alive && m.sharing.Suits(key, to.Name, m.self.Name)
}
