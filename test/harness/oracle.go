//go:build unix

package harness

import (
	"fmt"
	"strings"
)

// Appended is one event as the store's stream has it.
type Appended struct {
	Seq                      uint64
	ID, Stream, Type, Tenant string
	Row                      int // in the data
}

// Receipt is one event as a subscriber got it.
type Receipt struct {
	Seq, Incarnation uint64
	ID               string
	From             string // who sent it, where that can be told
}

// Allowed says what a subscription may see that would be a fault elsewhere.
type Allowed struct {
	Repeats bool            // at least once: an event may come again after it was seen
	Holes   bool            // at most once beyond the proxy: events may be missing
	Fresh   bool            // start_version -1: the first event that came is where it begins
	After   uint64          // nothing up to here may come (fresh, or start_version n)
	Parked  map[uint64]bool // refused for good: these need not come
	Fenced  bool            // the subscriber refuses older incarnations: none stands after a newer one
}

// Verdict is what the checker found for one subscription.
type Verdict struct {
	Wanted, Lost, duplicated, disordered, foreign int
	Findings                                      []string
}

// Ok reports whether nothing was found.
func (v *Verdict) Ok() bool { return len(v.Findings) == 0 }

func (v *Verdict) String() string {
	return fmt.Sprintf("wanted %d, lost %d, duplicated %d, out of order %d, foreign %d%s",
		v.Wanted, v.Lost, v.duplicated, v.disordered, v.foreign, strings.Join(append([]string{""}, v.Findings...), "\n    "))
}

func (v *Verdict) find(format string, args ...any) {
	const most = 12
	if len(v.Findings) < most {
		v.Findings = append(v.Findings, fmt.Sprintf(format, args...))
	}
}

// Judge compares. Both lists are in the order in which things happened; the store's is ascending.
func Judge(wants func(*Appended) bool, store []Appended, got []Receipt, may Allowed) *Verdict {
	v := &Verdict{}
	if may.Fresh {
		if len(got) > 0 {
			may.After = max(may.After, got[0].Seq-1)
		} else {
			may.After = ^uint64(0)
		}
	}
	var wanted []Appended
	for i := range store {
		if e := &store[i]; e.Seq > may.After && wants(e) {
			wanted = append(wanted, *e)
		}
	}
	v.Wanted = len(wanted)
	place := map[uint64]int{} // in wanted
	for i, e := range wanted {
		place[e.Seq] = i
	}
	seen := make([]bool, len(wanted))
	next := 0           // place in wanted
	newest := uint64(0) // incarnation
	for n, r := range got {
		if may.Fenced && r.Incarnation < newest {
			v.find("receipt %d: event %d of incarnation %d was accepted after one of incarnation %d", n, r.Seq, r.Incarnation, newest)
		}
		newest = max(newest, r.Incarnation)
		i, ok := place[r.Seq]
		switch {
		case !ok:
			v.foreign++
			v.find("receipt %d: event %d (id %s) is not one that the subscription wants", n, r.Seq, r.ID)
			continue
		case wanted[i].ID != r.ID:
			v.foreign++
			v.find("receipt %d: event %d has id %s, appended as %s", n, r.Seq, r.ID, wanted[i].ID)
			continue
		case seen[i]:
			v.duplicated++
			if !may.Repeats {
				v.find("receipt %d: event %d (incarnation %d) came before", n, r.Seq, r.Incarnation)
			}
			continue
		case i < next:
			v.disordered++
			v.find("receipt %d: event %d (incarnation %d) comes for the first time after event %d", n, r.Seq, r.Incarnation, wanted[next-1].Seq)
		}
		seen[i] = true
		for ; next < i; next++ {
			if !seen[next] && !may.Holes && !may.Parked[wanted[next].Seq] {
				v.find("receipt %d: event %d (incarnation %d) comes before event %d", n, r.Seq, r.Incarnation, wanted[next].Seq)
			}
		}
		next = max(next, i+1)
	}
	for i, e := range wanted {
		if !seen[i] && !may.Parked[e.Seq] {
			v.Lost++
			if !may.Holes {
				v.find("event %d (id %s, %s/%s) is lost", e.Seq, e.ID, e.Stream, e.Type)
			}
		}
	}
	return v
}

// Anything is wanted by a subscription to every event.
func Anything(*Appended) bool { return true }

// Claim is one registration as the bucket had it.
type Claim struct {
	Revision, Incarnation uint64
	Owner                 string // id
}

// JudgeClaims holds the registrations of one subscription, in the order of their revisions, against the
// promise that an incarnation is one owner's, and that of two owners the later one's is the higher. Offers
// are the events that the subscriber was sent, refused ones too: all of one incarnation must be from one
// sender and, where all claims are known, each of an incarnation that there was.
func JudgeClaims(claims []Claim, offers []Receipt, all bool) (findings []string) {
	find := func(format string, args ...any) { findings = append(findings, fmt.Sprintf(format, args...)) }
	owners := map[uint64]string{} // by incarnation
	var last Claim
	for _, c := range claims {
		switch owner, taken := owners[c.Incarnation]; {
		case taken && owner != c.Owner:
			find("revision %d: incarnation %d is %s's, and was %s's", c.Revision, c.Incarnation, c.Owner, owner)
		case c.Incarnation < last.Incarnation:
			find("revision %d: incarnation %d of %s comes after %d of %s", c.Revision, c.Incarnation, c.Owner, last.Incarnation, last.Owner)
		}
		owners[c.Incarnation], last = c.Owner, c
	}
	senders, told := map[uint64]string{}, map[uint64]bool{}
	for _, o := range offers {
		sender, known := senders[o.Incarnation]
		switch {
		case told[o.Incarnation]: // once is enough
		case all && owners[o.Incarnation] == "":
			told[o.Incarnation] = true
			find("event %d was sent under incarnation %d, which there never was", o.Seq, o.Incarnation)
		case known && sender != o.From:
			told[o.Incarnation] = true
			find("event %d was sent under incarnation %d by a second instance", o.Seq, o.Incarnation)
		}
		senders[o.Incarnation] = o.From
	}
	return findings
}
