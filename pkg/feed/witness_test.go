package feed

import (
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// stock is what a stream holds: when each message was stored, by its sequence.
type stock struct {
	ends  extent
	times map[uint64]time.Time
}

func (s *stock) look(seq uint64, next bool) (Witness, bool, error) {
	for ; seq <= s.ends.last; seq++ {
		if at, ok := s.times[seq]; ok {
			return Witness{seq, at}, true, nil
		}
		if !next {
			break
		}
	}
	return Witness{}, false, nil
}

func (s *stock) store(at time.Time) {
	s.ends.last++
	s.times[s.ends.last] = at
	s.trim(0)
}

func (s *stock) remove(seq uint64) {
	delete(s.times, seq)
	s.trim(0)
}

// trim removes what lies below a sequence, and finds the first message.
func (s *stock) trim(below uint64) {
	s.ends.first = s.ends.last + 1
	for seq := range s.times {
		if seq < below {
			delete(s.times, seq)
		} else {
			s.ends.first = min(s.ends.first, seq)
		}
	}
}

// stored is a stream of n messages, one a millisecond from then on.
func stored(n int, from time.Time) *stock {
	s := &stock{times: map[uint64]time.Time{}}
	for i := range n {
		s.store(from.Add(time.Duration(i) * time.Millisecond))
	}
	return s
}

func (s *stock) without(seqs ...uint64) *stock {
	for _, seq := range seqs {
		s.remove(seq)
	}
	return s
}

func (s *stock) from(seq uint64) *stock {
	s.trim(seq)
	return s
}

func (s *stock) and(n int, from time.Time) *stock {
	for i := range n {
		s.store(from.Add(time.Duration(i) * time.Millisecond))
	}
	return s
}

func TestStreamsAreComparedByWhatTheyHold(t *testing.T) {
	later := epoch.Add(time.Hour)
	all := Comparison{Same, math.MaxUint64}
	for name, tc := range map[string]struct {
		now  *stock
		want Comparison
	}{
		"as it was":                             {stored(100, epoch), all},
		"grown":                                 {stored(120, epoch), all},
		"the last is deleted":                   {stored(100, epoch).without(100), all},
		"the last three are deleted, and more":  {stored(100, epoch).without(98, 99, 100).and(5, later), all},
		"purged":                                {stored(100, epoch).from(101), all},
		"purged, and more":                      {stored(100, epoch).from(101).and(5, later), all},
		"all but the end has expired":           {stored(100, epoch).from(95), all},
		"an older backup":                       {stored(80, epoch), Comparison{Shorter, 80}},
		"an older backup, and fewer than gone":  {stored(80, epoch).and(5, later), Comparison{Forked, 80}},
		"an older backup, and more than gone":   {stored(80, epoch).and(50, later), Comparison{Forked, 80}},
		"one of which the end is deleted":       {stored(80, epoch).without(80).and(50, later), Comparison{Forked, 79}},
		"an older backup whose begin is gone":   {stored(98, epoch).from(91), Comparison{Shorter, 98}},
		"one of which no witness is left":       {stored(95, epoch).from(91), Comparison{Another, 0}},
		"made anew":                             {stored(0, epoch), Comparison{Another, 0}},
		"made anew, shorter":                    {stored(10, later), Comparison{Another, 0}},
		"made anew, longer":                     {stored(150, later), Comparison{Another, 0}},
		"made anew, longer, the last deleted":   {stored(150, later).without(100), Comparison{Another, 0}},
		"nothing of it is left, nor is another": {stored(150, epoch).without(1, 64, 80, 88, 96, 98, 99, 100), Comparison{}},
	} {
		var known Witnesses
		for seq := uint64(1); seq <= 100; seq++ {
			known.Note(seq, storedFrom(epoch, seq))
		}
		got, err := compare(known.List(0), tc.now.ends, tc.now.look)
		if err != nil || got != tc.want {
			t.Errorf("%s: %s, shared up to %d, want %s, %d (known: %v)", name, got.Kinship, got.Shared, tc.want.Kinship, tc.want.Shared, known.List(0))
		}
	}
	if got, err := compare(nil, extent{1, 100}, nil); err != nil || got != (Comparison{}) {
		t.Errorf("of no witness: %v, %v", got, err)
	}
}

func storedFrom(from time.Time, seq uint64) time.Time {
	return from.Add(time.Duration(seq-1) * time.Millisecond)
}

// Whatever was deleted, went back and was stored since: no message that is new is taken for one that was
// known. And where something of what was known is proven to be there, nothing of it is taken for new.
func TestComparisonLosesNothingAndRepeatsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		clock := epoch
		store := func(s *stock, most int, label string) {
			for range rapid.IntRange(0, most).Draw(t, label) {
				clock = clock.Add(time.Duration(rapid.IntRange(1, 1000).Draw(t, "µs")) * time.Microsecond)
				s.store(clock)
			}
		}
		remove := func(s *stock) {
			for range rapid.IntRange(0, 4).Draw(t, "removed") {
				if s.ends.last > 0 {
					s.remove(rapid.Uint64Range(1, s.ends.last).Draw(t, "seq"))
				}
			}
			if rapid.IntRange(0, 4).Draw(t, "retention") == 0 {
				s.trim(rapid.Uint64Range(0, s.ends.last+1).Draw(t, "below"))
			}
		}
		before := stored(0, clock)
		var known Witnesses
		var backup *stock
		for range rapid.IntRange(1, 6).Draw(t, "looks") {
			store(before, 40, "stored before")
			if rapid.Bool().Draw(t, "backup") {
				backup = &stock{before.ends, maps.Clone(before.times)}
			}
			if at, ok := before.times[before.ends.last]; ok {
				known.Note(before.ends.last, at)
			}
			if at, ok := before.times[before.ends.first]; ok {
				known.Note(before.ends.first, at)
			}
			remove(before)
		}
		top := known.last.seq
		now := before
		switch rapid.IntRange(0, 2).Draw(t, "what") {
		case 0:
			now = stored(0, clock)
		case 1:
			if backup != nil {
				now = backup
			}
		}
		store(now, 60, "stored after")
		remove(now)
		got, err := compare(known.List(0), now.ends, now.look)
		if err != nil {
			t.Fatal(err)
		}
		matches := slices.ContainsFunc(known.List(0), func(w Witness) bool { return now.times[w.Sequence].Equal(w.Time) })
		latest := time.Unix(0, known.last.at)
		for seq, at := range now.times {
			if seq > top {
				continue
			}
			isNew := at.After(latest)
			if isNew && seq <= got.Shared && got.Kinship != Unproven {
				t.Fatalf("%s, shared up to %d: %d is another message than was known there", got.Kinship, got.Shared, seq)
			}
			if !isNew && matches && seq > got.Shared {
				t.Fatalf("%s, shared up to %d: %d is the message that was known there", got.Kinship, got.Shared, seq)
			}
		}
	})
}

func TestWitnessesAreFewAndReachFarBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w Witnesses
		var seqs []uint64
		seq := uint64(0)
		for range rapid.IntRange(1, 300).Draw(t, "looks") {
			seq += rapid.Uint64Range(1, 100_000).Draw(t, "stored")
			seqs = append(seqs, seq)
			w.Note(seq, storedAt(seq%1000))
		}
		list := w.List(0)
		if len(list) > Recorded || list[0].Sequence != seqs[0] || list[len(list)-1].Sequence != seq || !slices.IsSortedFunc(list, func(a, b Witness) int { return int(a.Sequence) - int(b.Sequence) }) {
			t.Fatalf("%d to %d: %v", seqs[0], seq, list)
		}
		for _, one := range list {
			if !slices.Contains(seqs, one.Sequence) || !one.Time.Equal(storedAt(one.Sequence%1000)) {
				t.Fatalf("%v was not noted", one)
			}
		}
		var again Witnesses
		again.Add(list...)
		if !slices.Equal(again.List(0), list) && len(list) < Recorded {
			t.Fatalf("recorded as %v, read as %v", list, again.List(0))
		}
	})
	var none Witnesses
	if none.List(0) != nil {
		t.Error("nothing noted, and something listed")
	}
	none.Note(7, epoch)
	if none.List(8) != nil || none.contradicts(7, epoch) || !none.contradicts(7, epoch.Add(1)) || none.contradicts(6, epoch.Add(1)) {
		t.Error("of one message")
	}
}
