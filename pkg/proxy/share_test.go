package proxy

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/registry"
)

func keys(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = "greenhouse_tycoon.by_event_type.initialized=3Av1.to_pubsub_" + strconv.Itoa(i)
	}
	return all
}

// drawMembers draws from 1 to 12 members with distinct names.
func drawMembers(t *rapid.T) []Member {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9-]{1,12}`), 1, 12, rapid.ID).Draw(t, "names")
	members := make([]Member, len(names))
	for i, name := range names {
		members[i] = Member{Name: name, Weight: rapid.IntRange(1, 10).Draw(t, "weight"), Draining: rapid.Float64().Draw(t, "draining") < 0.1}
	}
	return members
}

func assignAll(all []string, members []Member) map[string]string {
	s := NewSharing(members)
	assigned := make(map[string]string, len(all))
	for _, key := range all {
		assigned[key] = s.Assign(key)
	}
	return assigned
}

func TestAssignmentDoesNotDependOnOrder(t *testing.T) {
	all := keys(200)
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t)
		before := assignAll(all, members)
		shuffled := rapid.Permutation(members).Draw(t, "shuffled")
		for key, name := range assignAll(all, shuffled) {
			if name != before[key] || name == "" {
				t.Fatalf("%s: %q and %q", key, before[key], name)
			}
		}
	})
}

func TestWhoComesAndGoesMovesOnlyItsOwn(t *testing.T) {
	all := keys(300)
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t)
		last := members[len(members)-1]
		last.Draining = false
		with, without := assignAll(all, append(members[:len(members)-1:len(members)-1], last)), assignAll(all, members[:len(members)-1])
		everyoneDrains := true
		for _, m := range members[:len(members)-1] {
			everyoneDrains = everyoneDrains && m.Draining
		}
		for _, key := range all {
			if with[key] != without[key] && with[key] != last.Name && !everyoneDrains {
				t.Fatalf("%s moves from %q to %q as %s comes", key, without[key], with[key], last.Name)
			}
		}
	})
}

func TestHeavierMemberOnlyTakes(t *testing.T) {
	all := keys(300)
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t)
		before := assignAll(all, members)
		members[0].Weight++
		for key, name := range assignAll(all, members) {
			if name != before[key] && name != members[0].Name {
				t.Fatalf("%s moves from %q to %q as %s weighs more", key, before[key], name, members[0].Name)
			}
		}
	})
}

func TestSharesFollowWeights(t *testing.T) {
	all := keys(10000)
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t)
		counts, total := map[string]int{}, 0
		everyoneDrains := true
		for _, m := range members {
			everyoneDrains = everyoneDrains && m.Draining
		}
		for _, m := range members {
			if !m.Draining || everyoneDrains {
				total += m.Weight
			}
		}
		for _, name := range assignAll(all, members) {
			counts[name]++
		}
		for _, m := range members {
			p := float64(m.Weight) / float64(total)
			if m.Draining && !everyoneDrains {
				p = 0
			}
			want := p * float64(len(all))
			// Six standard deviations: a fair draw is outside once in 10^9.
			if off := math.Abs(float64(counts[m.Name]) - want); off > 6*math.Sqrt(want*(1-p))+0.5 {
				t.Fatalf("%+v has %d of %d, want %.0f: %+v", m, counts[m.Name], len(all), want, members)
			}
		}
	})
}

func TestOneMoreMemberMovesItsShare(t *testing.T) {
	all := keys(10000)
	for n := 1; n <= 10; n++ {
		var members []Member
		for i := range n {
			members = append(members, Member{Name: fmt.Sprintf("host-%d", i)})
		}
		before := assignAll(all, members)
		moved := 0
		for key, name := range assignAll(all, append(members, Member{Name: "new"})) {
			if name != before[key] {
				moved++
			}
		}
		want := float64(len(all)) / float64(n+1)
		if math.Abs(float64(moved)-want) > 6*math.Sqrt(want) {
			t.Errorf("%d of %d move to the %dth member, want %.0f", moved, len(all), n+1, want)
		}
	}
}

// The rule is a contract between versions and with others that take part: these are what it says.
func TestAssignmentsAreThoseTheyWere(t *testing.T) {
	members := []Member{{Name: "host-a"}, {Name: "host-b", Weight: 3}, {Name: "host-c", Weight: 2}}
	for key, want := range map[string]string{
		"greenhouse_tycoon.by_event_type.initialized=3Av1.to_pubsub": "host-b",
		"greenhouse_tycoon.by_stream.=24all.audit":                   "host-b",
		"s.by_stream.=24all.e":                                       "host-c",
		"s.by_stream.=24all.f":                                       "host-c",
		"s.by_stream.=24all.g":                                       "host-c",
		"s.by_stream.=24all.j":                                       "host-a",
	} {
		if got := Assign(key, members); got != want {
			t.Errorf("%s is assigned to %s, was %s", key, got, want)
		}
	}
	if got := Assign("k", nil); got != "" {
		t.Errorf("of nobody, %s", got)
	}
}

func TestOnlyThoseThatMayAreAssigned(t *testing.T) {
	members := []Member{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	s := NewSharing(members)
	for _, key := range keys(100) {
		got := s.AssignAmong(key, func(name string) bool { return name != "b" })
		if want := s.Assign(key); got == "b" || want != "b" && got != want {
			t.Errorf("%s: %s, among all %s", key, got, want)
		}
	}
	if got := s.AssignAmong("k", func(string) bool { return false }); got != "" {
		t.Errorf("of nobody, %s", got)
	}
}

func BenchmarkAssign(b *testing.B) {
	all := keys(100_000)
	var members []Member
	for i := range 10 {
		members = append(members, Member{Name: fmt.Sprintf("host-%d", i), Weight: 1 + i%3})
	}
	b.ResetTimer()
	for b.Loop() {
		s := NewSharing(members)
		for _, key := range all {
			s.Assign(key)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/100,000")
}

// market is a bucket of registrations, the history of who lived, and members that know some of both.
type market struct {
	rt       interface{ Fatalf(string, ...any) }
	keys     []string
	revision uint64
	records  map[string]stall   // by key; a deletion leaves a revision without an owner
	feed     []stall            // all writes, in order
	history  [][]registry.Owner // the living, after each change
	traders  []*trader
	starts   int
}

type stall struct {
	key      string
	revision uint64
	owner    *registry.Owner
}

// trader is one run of a member.
type trader struct {
	self  registry.Owner
	ended bool
	// What it has seen: the first of each.
	fed, told int
	seen      map[string]stall
	draining  map[string]uint64 // what it drains, with the revision to release it at
	holds     map[string]uint64 // what it was acknowledged, and has seen nothing newer of
}

func (m *market) start(name string) {
	m.starts++
	for _, tr := range m.traders {
		if tr.self.Name == name {
			tr.ended = true // superseded
		}
	}
	m.traders = append(m.traders, &trader{
		self: registry.Owner{Name: name, ID: name + strconv.Itoa(m.starts)},
		seen: map[string]stall{}, draining: map[string]uint64{}, holds: map[string]uint64{},
	})
	m.changed()
}

func (m *market) end(tr *trader) {
	tr.ended = true
	m.changed()
}

func (m *market) lives(o registry.Owner) bool {
	return slices.ContainsFunc(m.traders, func(tr *trader) bool { return tr.self == o && !tr.ended })
}

func (m *market) changed() {
	var living []registry.Owner
	for _, tr := range m.traders {
		if !tr.ended {
			living = append(living, tr.self)
		}
	}
	m.history = append(m.history, living)
}

// write is conditional. Whoever it succeeds for holds the key, and nobody else does at its revision.
func (m *market) write(tr *trader, key string, on uint64, owner *registry.Owner) {
	if m.records[key].revision != on {
		return
	}
	if there := m.records[key].owner; owner != nil && there != nil && tr.fed == len(m.feed) && tr.told == len(m.history) && m.lives(*there) {
		m.rt.Fatalf("%s takes %s from %s, and knows that it lives", owner.ID, key, there.ID)
	}
	m.revision++
	s := stall{key, m.revision, owner}
	m.records[key] = s
	m.feed = append(m.feed, s)
	delete(tr.holds, key)
	if owner != nil {
		tr.holds[key] = s.revision
	}
}

func (m *market) see(tr *trader) bool {
	if tr.fed == len(m.feed) {
		return false
	}
	s := m.feed[tr.fed]
	tr.fed++
	tr.seen[s.key] = s
	if s.revision > tr.holds[s.key] {
		delete(tr.holds, s.key)
	}
	return true
}

func (m *market) hear(tr *trader) bool {
	if tr.told == len(m.history) {
		return false
	}
	tr.told++
	return true
}

// move makes the trader do about a key what the rule says of what it has seen. It reports whether that was anything.
func (m *market) move(tr *trader, key string) bool {
	if on, ok := tr.draining[key]; ok {
		delete(tr.draining, key)
		m.write(tr, key, on, nil)
		return true
	}
	var members []Member
	living := map[string]string{}
	if tr.told > 0 {
		for _, o := range m.history[tr.told-1] {
			members = append(members, Member{Name: o.Name})
			living[o.Name] = o.ID
		}
	}
	assigned := ""
	if living[tr.self.Name] == tr.self.ID {
		assigned = Assign(key, members)
	}
	seen := tr.seen[key]
	alive := seen.owner != nil && living[seen.owner.Name] == seen.owner.ID
	switch Decide(tr.self, assigned, seen.owner, alive) {
	case Claim:
		m.write(tr, key, seen.revision, &tr.self)
		return true
	case Release:
		tr.draining[key] = seen.revision
		return true
	}
	return false
}

// exclusive checks that of all who believe they hold a key at the bucket's revision there is one.
func (m *market) exclusive() {
	for _, key := range m.keys {
		holders := 0
		for _, tr := range m.traders {
			if tr.holds[key] == m.records[key].revision && tr.holds[key] > 0 {
				holders++
			}
		}
		if holders > 1 {
			m.rt.Fatalf("%d hold %s", holders, key)
		}
	}
}

func TestOwnershipConvergesForAnyHistoryAndDelay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &market{rt: t, keys: keys(rapid.IntRange(1, 6).Draw(t, "keys")), records: map[string]stall{}}
		name := func() string { return rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "name") }
		m.start(name())
		// Those that ended go on with what they have in hand: a run that was stopped and wakes up late is one of them.
		any := func() *trader { return m.traders[rapid.IntRange(0, len(m.traders)-1).Draw(t, "trader")] }
		t.Repeat(map[string]func(*rapid.T){
			"":      func(*rapid.T) { m.exclusive() },
			"start": func(*rapid.T) { m.start(name()) },
			"end":   func(*rapid.T) { m.end(any()) },
			"see":   func(*rapid.T) { m.see(any()) },
			"hear":  func(*rapid.T) { m.hear(any()) },
			"catch up": func(*rapid.T) {
				for tr := any(); m.see(tr) || m.hear(tr); {
				}
			},
			"move": func(t *rapid.T) { m.move(any(), rapid.SampledFrom(m.keys).Draw(t, "key")) },
		})
		m.converge()
	})
}

// converge lets messages arrive, and checks that all comes to rest with what the rule says.
func (m *market) converge() {
	for rounds, busy := 0, true; busy; rounds++ {
		if rounds > 20 {
			m.rt.Fatalf("it does not come to rest")
		}
		busy = false
		for _, tr := range m.traders {
			for m.see(tr) || m.hear(tr) {
				busy = true
			}
		}
		for _, tr := range m.traders {
			for _, key := range m.keys {
				busy = (!tr.ended || len(tr.draining) > 0) && m.move(tr, key) || busy
			}
			m.exclusive()
		}
	}
	var members []Member
	living := m.history[len(m.history)-1]
	for _, o := range living {
		members = append(members, Member{Name: o.Name})
	}
	for _, key := range m.keys {
		want := Assign(key, members)
		got := m.records[key].owner
		switch {
		case want == "":
		case got == nil || got.Name != want:
			m.rt.Fatalf("%s is held by %+v, and assigned to %s of %v", key, got, want, living)
		default:
			for _, o := range living {
				if o.Name == want && o != *got {
					m.rt.Fatalf("%s is held by a dead run of %s", key, want)
				}
			}
		}
	}
}
