package proxy

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
func (s *Sharing) Assign(key string) string {
	hash := xxhash.Sum64String(key)
	var best *share
	highest := 0.0
	for i := range s.shares {
		m := &s.shares[i]
		if score := m.score(hash); best == nil || m.above(score, best, highest) {
			best, highest = m, score
		}
	}
	if best == nil {
		return ""
	}
	return best.name
}

// Ahead returns how many members the subscription with that key suits better than the one of that name: those that may try
// for it before. For one that has no share it is all that have one.
func (s *Sharing) Ahead(key, name string) int {
	hash := xxhash.Sum64String(key)
	own := s.share(name)
	if own == nil {
		return len(s.shares)
	}
	score, ahead := own.score(hash), 0
	for i := range s.shares {
		if m := &s.shares[i]; m != own && m.above(m.score(hash), own, score) {
			ahead++
		}
	}
	return ahead
}

// Suits reports whether the subscription with that key suits the member of the first name better than that of the second.
// One without a share suits none.
func (s *Sharing) Suits(key, name, other string) bool {
	one, two := s.share(name), s.share(other)
	if one == nil || two == nil || one == two {
		return one != nil && two == nil
	}
	hash := xxhash.Sum64String(key)
	return one.above(one.score(hash), two, two.score(hash))
}

// share is that of the member of that name; nil: it has none.
func (s *Sharing) share(name string) *share {
	for i := range s.shares {
		if s.shares[i].name == name {
			return &s.shares[i]
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
