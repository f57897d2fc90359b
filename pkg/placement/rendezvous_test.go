package placement

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
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
	s := NewRendezvous(members)
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
		if got := NewRendezvous(members).Assign(key); got != want {
			t.Errorf("%s is assigned to %s, was %s", key, got, want)
		}
	}
	if got := NewRendezvous(nil).Assign("k"); got != "" {
		t.Errorf("of nobody, %s", got)
	}
}

// The order in which members try for a subscription is the order in which it would be assigned were those
// ahead not there.
func TestWhoIsAheadIsWhoItWouldBeAssignedToBefore(t *testing.T) {
	all := keys(20)
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t)
		for i := range members {
			members[i].Draining = false
		}
		s := NewRendezvous(members)
		for _, key := range all {
			left := slices.Clone(members)
			for n := range members {
				name := NewRendezvous(left).Assign(key)
				if ahead := s.Rank(key, name); ahead != n {
					t.Fatalf("%d are ahead of %s, want %d", ahead, name, n)
				}
				for _, m := range left {
					if suits := s.Prefers(key, name, m.Name); suits != (m.Name != name) {
						t.Fatalf("suits %s better than %s: %t", name, m.Name, suits)
					}
				}
				if !s.Prefers(key, name, "nobody") || s.Prefers(key, "nobody", name) || s.Rank(key, "nobody") != len(members) {
					t.Fatal("who has no share is not last")
				}
				left = slices.DeleteFunc(left, func(m Member) bool { return m.Name == name })
			}
		}
	})
}

func BenchmarkAssign(b *testing.B) {
	all := keys(100_000)
	var members []Member
	for i := range 10 {
		members = append(members, Member{Name: fmt.Sprintf("host-%d", i), Weight: 1 + i%3})
	}
	b.ResetTimer()
	for b.Loop() {
		s := NewRendezvous(members)
		for _, key := range all {
			s.Assign(key)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/100,000")
}
