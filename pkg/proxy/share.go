package proxy

import (
	"math"

	"github.com/cespare/xxhash/v2"

	"github.com/exesdb/subproxy/pkg/registry"
)

// Member is an instance that subscriptions are shared with.
type Member struct {
	Name     string
	Weight   int // its share against the others'; below 1 is 1
	Draining bool
}

// Sharing says who should hold which subscription: weighted rendezvous hashing. Each member has a score for each key, which
// depends on nothing but the two and the member's weight, and the highest has it. So all that know the same members say
// the same, in whatever order they know them; who comes takes only what it is to hold, and what somebody leaves goes to
// the others in proportion to their weights. A member that drains is given nothing, unless all do.
//
// It decides only who should try: that no two hold a subscription is for conditional writes and incarnations.
//
// The score is -weight/ln(u), with u from the hash, evenly in (0, 1): Schindelhauer and Schomaker, Weighted Distributed Hash
// Tables, 2005. Logarithms may differ in their last bit between processor architectures; that two scores are so close is a
// matter of one key in 10^15.
type Sharing struct {
	shares []share
}

type share struct {
	name   string
	hash   uint64
	weight float64
}

// NewSharing shares among the members. No two may have one name.
func NewSharing(members []Member) *Sharing {
	drained := true
	for _, m := range members {
		drained = drained && m.Draining
	}
	s := &Sharing{}
	for _, m := range members {
		if drained || !m.Draining {
			s.shares = append(s.shares, share{m.Name, xxhash.Sum64String(m.Name), float64(max(m.Weight, 1))})
		}
	}
	return s
}

// Assign returns the name of the member that should hold the subscription with that key; empty where there is none.
func (s *Sharing) Assign(key string) string { return s.AssignAmong(key, nil) }

// AssignAmong is Assign among those members only that may have the subscription; nil: all may. It is for when their
// configurations differ.
func (s *Sharing) AssignAmong(key string, may func(name string) bool) string {
	hash := xxhash.Sum64String(key)
	best, highest := "", -1.0
	for i := range s.shares {
		m := &s.shares[i]
		if may != nil && !may(m.name) {
			continue
		}
		score := -m.weight / math.Log(unit(mix(hash^m.hash)))
		if score > highest || score == highest && m.name < best {
			best, highest = m.name, score
		}
	}
	return best
}

// mix makes every bit of the result depend on every bit of x (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// unit makes 52 bits of a hash a number in (0, 1), without its ends.
func unit(hash uint64) float64 { return (float64(hash>>12) + 0.5) / (1 << 52) }

// Assign is for one key what a Sharing is for many.
func Assign(key string, members []Member) string { return NewSharing(members).Assign(key) }

// Move is what a member should do about a subscription.
type Move uint8

// The moves.
const (
	Rest    Move = iota // leave it as it is
	Claim               // write a registration, conditional on what was seen
	Release             // drain it, then delete the registration, conditional on its revision
)

// Decide is the rule of sharing, for the member self: claim what is assigned to it and free, or whose owner is dead; release
// what it holds and is assigned to another. What another holds that lives is left until that one releases it, whoever it
// is assigned to. Assigned is from the members that self sees (Sharing.Assign), and empty where self itself is not among
// them: then nothing moves. Holder is the registration's owner, nil where there is none; alive whether that has a session.
func Decide(self registry.Owner, assigned string, holder *registry.Owner, alive bool) Move {
	mine := holder != nil && holder.ID == self.ID
	switch {
	case assigned == "":
		return Rest
	case assigned == self.Name && !mine && (holder == nil || !alive):
		return Claim
	case assigned != self.Name && mine:
		return Release
	default:
		return Rest
	}
}
