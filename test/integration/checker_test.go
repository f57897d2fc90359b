package integration

import (
	"fmt"
	"strings"
	"testing"
)

// The checker holds what subscribers got against what the store has. It shares no code with the product.

// appended is one event as the store's stream has it.
type appended struct {
	seq                     uint64
	id, stream, typ, tenant string
	row                     int // in the data
}

// receipt is one event as a subscriber got it.
type receipt struct {
	seq, incarnation uint64
	id               string
	from             string // who sent it, where that can be told
}

// allowed says what a subscription may see that would be a fault elsewhere.
type allowed struct {
	repeats bool            // at least once: an event may come again after it was seen
	holes   bool            // at most once beyond the proxy: events may be missing
	fresh   bool            // start_version -1: the first event that came is where it begins
	after   uint64          // nothing up to here may come (fresh, or start_version n)
	parked  map[uint64]bool // refused for good: these need not come
	fenced  bool            // the subscriber refuses older incarnations: none stands after a newer one
}

// verdict is what the checker found for one subscription.
type verdict struct {
	wanted, lost, duplicated, disordered, foreign int
	findings                                      []string
}

func (v *verdict) ok() bool { return len(v.findings) == 0 }

func (v *verdict) String() string {
	return fmt.Sprintf("wanted %d, lost %d, duplicated %d, out of order %d, foreign %d%s",
		v.wanted, v.lost, v.duplicated, v.disordered, v.foreign, strings.Join(append([]string{""}, v.findings...), "\n    "))
}

func (v *verdict) find(format string, args ...any) {
	const most = 12
	if len(v.findings) < most {
		v.findings = append(v.findings, fmt.Sprintf(format, args...))
	}
}

// judge compares. Both lists are in the order in which things happened; the store's is ascending.
func judge(wants func(*appended) bool, store []appended, got []receipt, may allowed) *verdict {
	v := &verdict{}
	if may.fresh {
		if len(got) > 0 {
			may.after = max(may.after, got[0].seq-1)
		} else {
			may.after = ^uint64(0)
		}
	}
	var wanted []appended
	for i := range store {
		if e := &store[i]; e.seq > may.after && wants(e) {
			wanted = append(wanted, *e)
		}
	}
	v.wanted = len(wanted)
	place := map[uint64]int{} // in wanted
	for i, e := range wanted {
		place[e.seq] = i
	}
	seen := make([]bool, len(wanted))
	next := 0           // place in wanted
	newest := uint64(0) // incarnation
	for n, r := range got {
		if may.fenced && r.incarnation < newest {
			v.find("receipt %d: event %d of incarnation %d was accepted after one of incarnation %d", n, r.seq, r.incarnation, newest)
		}
		newest = max(newest, r.incarnation)
		i, ok := place[r.seq]
		switch {
		case !ok:
			v.foreign++
			v.find("receipt %d: event %d (id %s) is not one that the subscription wants", n, r.seq, r.id)
			continue
		case wanted[i].id != r.id:
			v.foreign++
			v.find("receipt %d: event %d has id %s, appended as %s", n, r.seq, r.id, wanted[i].id)
			continue
		case seen[i]:
			v.duplicated++
			if !may.repeats {
				v.find("receipt %d: event %d (incarnation %d) came before", n, r.seq, r.incarnation)
			}
			continue
		case i < next:
			v.disordered++
			v.find("receipt %d: event %d (incarnation %d) comes for the first time after event %d", n, r.seq, r.incarnation, wanted[next-1].seq)
		}
		seen[i] = true
		for ; next < i; next++ {
			if !seen[next] && !may.holes && !may.parked[wanted[next].seq] {
				v.find("receipt %d: event %d (incarnation %d) comes before event %d", n, r.seq, r.incarnation, wanted[next].seq)
			}
		}
		next = max(next, i+1)
	}
	for i, e := range wanted {
		if !seen[i] && !may.parked[e.seq] {
			v.lost++
			if !may.holes {
				v.find("event %d (id %s, %s/%s) is lost", e.seq, e.id, e.stream, e.typ)
			}
		}
	}
	return v
}

func anything(*appended) bool { return true }

// claim is one registration as the bucket had it.
type claim struct {
	revision, incarnation uint64
	owner                 string // id
}

// judgeClaims holds the registrations of one subscription, in the order of their revisions, against the promise that an
// incarnation is one owner's, and that of two owners the later one's is the higher. Offers are the events that the
// subscriber was sent, refused ones too: all of one incarnation must be from one sender and, where all claims are known, each
// of an incarnation that there was.
func judgeClaims(claims []claim, offers []receipt, all bool) (findings []string) {
	find := func(format string, args ...any) { findings = append(findings, fmt.Sprintf(format, args...)) }
	owners := map[uint64]string{} // by incarnation
	var last claim
	for _, c := range claims {
		switch owner, taken := owners[c.incarnation]; {
		case taken && owner != c.owner:
			find("revision %d: incarnation %d is %s's, and was %s's", c.revision, c.incarnation, c.owner, owner)
		case c.incarnation < last.incarnation:
			find("revision %d: incarnation %d of %s comes after %d of %s", c.revision, c.incarnation, c.owner, last.incarnation, last.owner)
		}
		owners[c.incarnation], last = c.owner, c
	}
	senders, told := map[uint64]string{}, map[uint64]bool{}
	for _, o := range offers {
		sender, known := senders[o.incarnation]
		switch {
		case told[o.incarnation]: // once is enough
		case all && owners[o.incarnation] == "":
			told[o.incarnation] = true
			find("event %d was sent under incarnation %d, which there never was", o.seq, o.incarnation)
		case known && sender != o.from:
			told[o.incarnation] = true
			find("event %d was sent under incarnation %d by a second instance", o.seq, o.incarnation)
		}
		senders[o.incarnation] = o.from
	}
	return findings
}

func TestCheckerFindsWhatIsWrong(t *testing.T) {
	var store []appended
	for seq := uint64(1); seq <= 6; seq++ {
		store = append(store, appended{seq: seq, id: fmt.Sprint("id", seq), stream: "s"})
	}
	store = append(store[:3], store[4:]...) // a sequence that was deleted
	of := func(seqs ...uint64) (rs []receipt) {
		for _, seq := range seqs {
			rs = append(rs, receipt{seq: seq, id: fmt.Sprint("id", seq)})
		}
		return rs
	}
	under := func(incarnation uint64, then []receipt, seqs ...uint64) []receipt {
		rs := of(seqs...)
		for i := range rs {
			rs[i].incarnation = incarnation
		}
		return append(rs, then...)
	}
	odd := func(e *appended) bool { return e.seq%2 == 1 }
	for _, c := range []struct {
		name  string
		wants func(*appended) bool
		got   []receipt
		may   allowed
		want  verdict
		ok    bool
	}{
		{"all", anything, of(1, 2, 3, 5, 6), allowed{}, verdict{wanted: 5}, true},
		{"selected", odd, of(1, 3, 5), allowed{}, verdict{wanted: 3}, true},
		{"lost", anything, of(1, 2, 5, 6), allowed{}, verdict{wanted: 5, lost: 1}, false},
		{"lost at the end", anything, of(1, 2, 3), allowed{}, verdict{wanted: 5, lost: 2}, false},
		{"all lost", anything, nil, allowed{}, verdict{wanted: 5, lost: 5}, false},
		{"hole", anything, of(1, 2, 5, 6), allowed{holes: true}, verdict{wanted: 5, lost: 1}, true},
		{"duplicated", anything, of(1, 2, 2, 3, 5, 6), allowed{}, verdict{wanted: 5, duplicated: 1}, false},
		{"repeated", anything, of(1, 2, 3, 2, 3, 5, 5, 6), allowed{repeats: true}, verdict{wanted: 5, duplicated: 3}, true},
		{"out of order", anything, of(1, 3, 2, 5, 6), allowed{repeats: true}, verdict{wanted: 5, disordered: 1}, false},
		{"out of order with holes", anything, of(1, 3, 2, 6), allowed{holes: true}, verdict{wanted: 5, disordered: 1, lost: 1}, false},
		{"not wanted", odd, of(1, 2, 3, 5), allowed{}, verdict{wanted: 3, foreign: 1}, false},
		{"another event", anything, append(of(1, 2, 3, 5), receipt{seq: 6, id: "other"}), allowed{}, verdict{wanted: 5, foreign: 1, lost: 1}, false},
		{"new ones", anything, of(3, 5, 6), allowed{fresh: true, after: 2}, verdict{wanted: 3}, true},
		{"new ones with an old one", anything, of(2, 3, 5, 6), allowed{fresh: true, after: 2}, verdict{wanted: 3, foreign: 1}, false},
		{"new ones with a gap", anything, of(3, 6), allowed{fresh: true}, verdict{wanted: 3, lost: 1}, false},
		{"parked", anything, of(1, 3, 5, 6), allowed{parked: map[uint64]bool{2: true}}, verdict{wanted: 5}, true},
		{"a newer incarnation begins again", anything, under(1, under(2, nil, 2, 3, 5, 6), 1, 2, 3), allowed{repeats: true, fenced: true}, verdict{wanted: 5, duplicated: 2}, true},
		{"an older incarnation after a newer", anything, under(1, under(2, under(1, nil, 5), 3), 1, 2), allowed{fenced: true}, verdict{wanted: 5, lost: 1}, false},
	} {
		v := judge(c.wants, store, c.got, c.may)
		if v.wanted != c.want.wanted || v.lost != c.want.lost || v.duplicated != c.want.duplicated || v.disordered != c.want.disordered || v.foreign != c.want.foreign || v.ok() != c.ok {
			t.Errorf("%s: %v", c.name, v)
		}
	}
}

func TestCheckerFindsIncarnationsOfTwo(t *testing.T) {
	offer := func(incarnation uint64, from string) receipt { return receipt{incarnation: incarnation, from: from} }
	good := []claim{{1, 1, "a"}, {3, 1, "a"}, {4, 2, "b"}, {9, 4, "a"}}
	for _, c := range []struct {
		name   string
		claims []claim
		offers []receipt
		want   int
	}{
		{"good", good, []receipt{offer(1, "x"), offer(2, "y"), offer(1, "x"), offer(4, "x")}, 0},
		{"two owners of one incarnation", append(good, claim{10, 4, "b"}), nil, 1},
		{"lower than before", append(good, claim{10, 3, "b"}), nil, 1},
		{"begun anew", append(good, claim{10, 1, "c"}), nil, 1},
		{"two senders", good, []receipt{offer(2, "x"), offer(2, "y"), offer(2, "x")}, 1},
		{"never registered", good, []receipt{offer(3, "x"), offer(3, "x")}, 1},
	} {
		if got := judgeClaims(c.claims, c.offers, true); len(got) != c.want {
			t.Errorf("%s: %d findings, want %d: %q", c.name, len(got), c.want, got)
		}
	}
}
