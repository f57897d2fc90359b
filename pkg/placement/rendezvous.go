// Package placement says who should hold which subscription. It is pure: no clock, no NATS.
//
// Rendezvous assigns keys to members by hashing. Members adds who lives, and says from the view of one
// instance what to do about a key: claim it, request it from its holder, grant it to a member that requests
// it, or leave it.
//
// It promises that instances which know the same members say the same of each key. It decides only who
// should try: that no two instances hold a subscription is for conditional writes and incarnations.
package placement

import (
	"math"

	"github.com/cespare/xxhash/v2"
)

// Member is an instance that subscriptions are shared with.
type Member struct {
	Name     string
	Weight   int // its share against the others'; below 1 is 1
	Draining bool
	Has      func(store string) bool // whether it has subscriptions of a store; nil: it may have any
}

// Rendezvous says who should hold which subscription, by weighted rendezvous hashing. Each member has a
// score for each key, which depends on nothing but the two and the member's weight, and the member with the
// highest score should hold the key.
//
//   - Instances that know the same members say the same, in whatever order they know them.
//   - A member that comes is assigned only what it is to hold. What a member leaves goes to the others in proportion
//     to their weights.
//   - A member that drains is assigned nothing, unless all drain.
//
// The score is -weight/ln(u), with u from the hash, evenly in (0, 1): Schindelhauer and Schomaker, Weighted
// Distributed Hash Tables, 2005. Logarithms may differ in their last bit between processor architectures;
// that two scores are so close is a matter of one key in 10^15.
type Rendezvous struct {
	shares []share
}

// share is a member that is assigned keys.
type share struct {
	name   string
	hash   uint64
	weight float64
}

// NewRendezvous shares among the members. No two may have one name.
func NewRendezvous(members []Member) *Rendezvous {
	allDrain := true
	for _, m := range members {
		allDrain = allDrain && m.Draining
	}
	r := &Rendezvous{}
	for _, m := range members {
		if allDrain || !m.Draining {
			r.shares = append(r.shares, share{m.Name, xxhash.Sum64String(m.Name), float64(max(m.Weight, 1))})
		}
	}
	return r
}

// Assign returns the name of the member that should hold the subscription with that key; empty where there
// is none.
func (r *Rendezvous) Assign(key string) string {
	hash := xxhash.Sum64String(key)
	var best *share
	highest := 0.0
	for i := range r.shares {
		m := &r.shares[i]
		if score := m.score(hash); best == nil || m.above(score, best, highest) {
			best, highest = m, score
		}
	}
	if best == nil {
		return ""
	}
	return best.name
}

// Rank returns how many members have a higher score for the key than the member of that name: those that
// may try for the subscription before. For a member without a share it is the number of those that have
// one.
func (r *Rendezvous) Rank(key, name string) int {
	hash := xxhash.Sum64String(key)
	own := r.share(name)
	if own == nil {
		return len(r.shares)
	}
	score, rank := own.score(hash), 0
	for i := range r.shares {
		if m := &r.shares[i]; m != own && m.above(m.score(hash), own, score) {
			rank++
		}
	}
	return rank
}

// Prefers reports whether the member of the first name should rather hold the subscription with that key
// than the member of the second. A member without a share is never preferred.
func (r *Rendezvous) Prefers(key, name, other string) bool {
	one, two := r.share(name), r.share(other)
	if one == nil || two == nil || one == two {
		return one != nil && two == nil
	}
	hash := xxhash.Sum64String(key)
	return one.above(one.score(hash), two, two.score(hash))
}

// share is that of the member of that name; nil: it has none.
func (r *Rendezvous) share(name string) *share {
	for i := range r.shares {
		if r.shares[i].name == name {
			return &r.shares[i]
		}
	}
	return nil
}

func (m *share) score(hash uint64) float64 { return -m.weight / math.Log(unit(mix(hash^m.hash))) }

// above orders two members by their scores for a key, and by their names where these are the same.
func (m *share) above(score float64, other *share, others float64) bool {
	return score > others || score == others && m.name < other.name
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
