package feed

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"time"
)

// Witness is a message that a stream was seen to have: where it stood, and when it was stored. No other
// message has both. A backup and a mirror keep them, and nothing of the kind is true of a stream's creation
// time.
type Witness struct {
	Sequence uint64    `json:"seq"`
	Time     time.Time `json:"time"`
}

func (w Witness) is(other Witness) bool {
	return w.Sequence == other.Sequence && w.Time.Equal(other.Time)
}

func (m *Message) witness() Witness { return Witness{m.Sequence, m.Time} }

// Witnesses are some messages of a stream: the first and the last one noted, and between them the more the
// later. The zero value has none.
type Witnesses struct {
	first, last mark
	rungs       [48]mark // by how often 2 divides the sequence: the last one noted of that kind
}

// mark is a Witness as it is kept.
type mark struct {
	seq uint64
	at  int64 // nanoseconds since 1970
}

// Note adds a message.
func (w *Witnesses) Note(seq uint64, stored time.Time) {
	m := mark{seq, stored.UnixNano()}
	if w.first.seq == 0 || seq < w.first.seq {
		w.first = m
	}
	if seq > w.last.seq {
		w.last = m
	}
	if rung := &w.rungs[min(bits.TrailingZeros64(seq), len(w.rungs)-1)]; seq > rung.seq {
		*rung = m
	}
}

// contradicts reports whether another message was noted there.
func (w *Witnesses) contradicts(seq uint64, stored time.Time) bool {
	return seq == w.first.seq && seq > 0 && !stored.IsZero() && stored.UnixNano() != w.first.at
}

// Add adds what is already a witness, such as one that was recorded.
func (w *Witnesses) Add(all ...Witness) {
	for _, one := range all {
		if one.Sequence > 0 && !one.Time.IsZero() {
			w.Note(one.Sequence, one.Time)
		}
	}
}

// Recorded is how many witnesses List returns at the most.
const Recorded = 12

// List returns the first, the last, and of those between them some whose distance from the last grows
// fourfold each time; in ascending order, and none below the sequence, which is where the stream begins.
func (w *Witnesses) List(from uint64) []Witness {
	all := append([]mark{w.first, w.last}, w.rungs[:]...)
	all = slices.DeleteFunc(all, func(m mark) bool { return m.seq == 0 || m.seq < from })
	slices.SortFunc(all, func(a, b mark) int { return cmp.Compare(b.seq, a.seq) })
	all = slices.CompactFunc(all, func(a, b mark) bool { return a.seq == b.seq })
	var list []Witness
	least := uint64(0) // distance from the last
	for i, m := range all {
		if w.last.seq-m.seq >= least && len(list) < Recorded-1 || i == len(all)-1 {
			least = max(1, 4*(w.last.seq-m.seq))
			list = append(list, Witness{m.seq, time.Unix(0, m.at).UTC()})
		}
	}
	slices.Reverse(list)
	return list
}

// Kinship is how a stream is related to one of which witnesses are known.
type Kinship uint8

// The kinships.
const (
	// Unproven: none of the witnesses is there, nor another message in place of one.
	Unproven Kinship = iota
	// Same: the same history. What was known is there, or was deleted, or all that is there lies after it.
	Same
	// Shorter: the same history, as far as it goes. It ends before the last witness.
	Shorter
	// Forked: the same history up to some place, and another after it.
	Forked
	// Another history: none of the witnesses is there, and there is another message in place of one, or the
	// stream ends before the last.
	Another
)

func (k Kinship) String() string {
	return [...]string{"unproven", "same", "shorter", "forked", "another"}[k]
}

// Comparison is what a stream has in common with one of which witnesses are known.
type Comparison struct {
	Kinship
	// Shared is up to which sequence it is the same: all, where it is the Same.
	Shared uint64
}

// extent is what a stream's leader says of its ends. Where there is no message first is the next sequence.
type extent struct{ first, last uint64 }

// lookup asks a stream's leader for the message at a sequence; with next, for the first one from there on.
// It reports false where there is none.
type lookup func(seq uint64, next bool) (Witness, bool, error)

// findings are what became of witnesses, in ascending order, as far as they were looked at.
type findings struct {
	match   Witness // the last one that is there; sequence 0: none
	differs uint64  // the lowest one looked at in whose place there is another message; 0: none
}

// find looks at the witnesses from the last one on until one is there.
func find(known []Witness, look lookup) (f findings, err error) {
	for _, w := range slices.Backward(known) {
		m, ok, err := look(w.Sequence, false)
		switch {
		case err != nil:
			return f, err
		case ok && m.is(w):
			f.match = w
			return f, nil
		case ok:
			f.differs = w.Sequence
		}
	}
	return f, nil
}

// compare finds out what a stream has in common with one that had the witnesses, which are in ascending
// order. One that is there proves that all before it is the same. Beyond it times tell: a message that was
// stored later than all that was known, and has a sequence that was known, is another one.
func compare(known []Witness, ends extent, look lookup) (Comparison, error) {
	if len(known) == 0 {
		return Comparison{}, nil
	}
	top := known[len(known)-1].Sequence
	f, err := find(known, look)
	switch {
	case err != nil:
		return Comparison{}, err
	case f.match.Sequence == top, ends.first > top && ends.last >= top:
		return Comparison{Same, math.MaxUint64}, nil
	case f.match.Sequence > 0:
		return f.fork(known, ends, look)
	case f.differs > 0, ends.last < top:
		return Comparison{Another, 0}, nil
	}
	return Comparison{}, nil
}

// fork finds out up to where the stream is the same that has a witness, and not the last one.
func (f *findings) fork(known []Witness, ends extent, look lookup) (Comparison, error) {
	top, latest := known[len(known)-1].Sequence, time.Time{}
	for _, w := range known {
		if w.Time.After(latest) {
			latest = w.Time
		}
	}
	// The first message between the two that is too late; beyond: there is none.
	from, beyond := f.match.Sequence+1, top+1
	for to := beyond; from < to; {
		middle := from + (to-from)/2
		m, ok, err := look(middle, true)
		switch {
		case err != nil:
			return Comparison{}, err
		case !ok || m.Sequence > top || m.Time.After(latest):
			to = middle
		default:
			from = m.Sequence + 1
		}
	}
	m, ok, err := look(from, true)
	if err != nil {
		return Comparison{}, err
	}
	c := Comparison{Forked, from - 1}
	if !ok || m.Sequence > top {
		switch {
		case ends.last < top:
			c = Comparison{Shorter, ends.last}
		default: // what is missing was deleted
			c = Comparison{Same, math.MaxUint64}
		}
	}
	if f.differs > 0 && f.differs <= c.Shared { // by a clock that was behind
		c = Comparison{Forked, f.match.Sequence}
	}
	return c, nil
}
