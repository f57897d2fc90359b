//go:build unix

package harness

import (
	"fmt"
	"testing"
)

func TestCheckerFindsWhatIsWrong(t *testing.T) {
	var store []Appended
	for seq := uint64(1); seq <= 6; seq++ {
		store = append(store, Appended{Seq: seq, ID: fmt.Sprint("id", seq), Stream: "s"})
	}
	store = append(store[:3], store[4:]...) // a sequence that was deleted
	of := func(seqs ...uint64) (rs []Receipt) {
		for _, seq := range seqs {
			rs = append(rs, Receipt{Seq: seq, ID: fmt.Sprint("id", seq)})
		}
		return rs
	}
	under := func(incarnation uint64, then []Receipt, seqs ...uint64) []Receipt {
		rs := of(seqs...)
		for i := range rs {
			rs[i].Incarnation = incarnation
		}
		return append(rs, then...)
	}
	odd := func(e *Appended) bool { return e.Seq%2 == 1 }
	for _, c := range []struct {
		name  string
		wants func(*Appended) bool
		got   []Receipt
		may   Allowed
		want  Verdict
		ok    bool
	}{
		{"all", Anything, of(1, 2, 3, 5, 6), Allowed{}, Verdict{Wanted: 5}, true},
		{"selected", odd, of(1, 3, 5), Allowed{}, Verdict{Wanted: 3}, true},
		{"lost", Anything, of(1, 2, 5, 6), Allowed{}, Verdict{Wanted: 5, Lost: 1}, false},
		{"lost at the end", Anything, of(1, 2, 3), Allowed{}, Verdict{Wanted: 5, Lost: 2}, false},
		{"all lost", Anything, nil, Allowed{}, Verdict{Wanted: 5, Lost: 5}, false},
		{"hole", Anything, of(1, 2, 5, 6), Allowed{Holes: true}, Verdict{Wanted: 5, Lost: 1}, true},
		{"duplicated", Anything, of(1, 2, 2, 3, 5, 6), Allowed{}, Verdict{Wanted: 5, duplicated: 1}, false},
		{"repeated", Anything, of(1, 2, 3, 2, 3, 5, 5, 6), Allowed{Repeats: true}, Verdict{Wanted: 5, duplicated: 3}, true},
		{"out of order", Anything, of(1, 3, 2, 5, 6), Allowed{Repeats: true}, Verdict{Wanted: 5, disordered: 1}, false},
		{"out of order with holes", Anything, of(1, 3, 2, 6), Allowed{Holes: true}, Verdict{Wanted: 5, disordered: 1, Lost: 1}, false},
		{"not wanted", odd, of(1, 2, 3, 5), Allowed{}, Verdict{Wanted: 3, foreign: 1}, false},
		{"another event", Anything, append(of(1, 2, 3, 5), Receipt{Seq: 6, ID: "other"}), Allowed{}, Verdict{Wanted: 5, foreign: 1, Lost: 1}, false},
		{"new ones", Anything, of(3, 5, 6), Allowed{Fresh: true, After: 2}, Verdict{Wanted: 3}, true},
		{"new ones with an old one", Anything, of(2, 3, 5, 6), Allowed{Fresh: true, After: 2}, Verdict{Wanted: 3, foreign: 1}, false},
		{"new ones with a gap", Anything, of(3, 6), Allowed{Fresh: true}, Verdict{Wanted: 3, Lost: 1}, false},
		{"parked", Anything, of(1, 3, 5, 6), Allowed{Parked: map[uint64]bool{2: true}}, Verdict{Wanted: 5}, true},
		{"a newer incarnation begins again", Anything, under(1, under(2, nil, 2, 3, 5, 6), 1, 2, 3), Allowed{Repeats: true, Fenced: true}, Verdict{Wanted: 5, duplicated: 2}, true},
		{"an older incarnation after a newer", Anything, under(1, under(2, under(1, nil, 5), 3), 1, 2), Allowed{Fenced: true}, Verdict{Wanted: 5, Lost: 1}, false},
	} {
		v := Judge(c.wants, store, c.got, c.may)
		if v.Wanted != c.want.Wanted || v.Lost != c.want.Lost || v.duplicated != c.want.duplicated || v.disordered != c.want.disordered || v.foreign != c.want.foreign || v.Ok() != c.ok {
			t.Errorf("%s: %v", c.name, v)
		}
	}
}

func TestCheckerFindsIncarnationsOfTwo(t *testing.T) {
	offer := func(incarnation uint64, from string) Receipt { return Receipt{Incarnation: incarnation, From: from} }
	good := []Claim{{1, 1, "a"}, {3, 1, "a"}, {4, 2, "b"}, {9, 4, "a"}}
	for _, c := range []struct {
		name   string
		claims []Claim
		offers []Receipt
		want   int
	}{
		{"good", good, []Receipt{offer(1, "x"), offer(2, "y"), offer(1, "x"), offer(4, "x")}, 0},
		{"two owners of one incarnation", append(good, Claim{10, 4, "b"}), nil, 1},
		{"lower than before", append(good, Claim{10, 3, "b"}), nil, 1},
		{"begun anew", append(good, Claim{10, 1, "c"}), nil, 1},
		{"two senders", good, []Receipt{offer(2, "x"), offer(2, "y"), offer(2, "x")}, 1},
		{"never registered", good, []Receipt{offer(3, "x"), offer(3, "x")}, 1},
	} {
		if got := JudgeClaims(c.claims, c.offers, true); len(got) != c.want {
			t.Errorf("%s: %d findings, want %d: %q", c.name, len(got), c.want, got)
		}
	}
}
