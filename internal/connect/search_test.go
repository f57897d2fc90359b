package connect

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// tried is the order in which a search tries servers, each of which is dead, until so much time has passed.
func tried(s *search, servers []string, now time.Time, during time.Duration, ended func(server string, at time.Time)) (order []string, at []time.Duration) {
	for began := now; ; {
		server, wait, _ := s.next(servers, now, 0.5)
		now = now.Add(wait)
		if now.Sub(began) > during {
			return order, at
		}
		order, at = append(order, server), append(at, now.Sub(began))
		now = now.Add(time.Millisecond)
		ended(server, now)
	}
}

// A configured server that leads nowhere takes longer than the pause until it is due again.
func TestAnAdvertisedServerIsTriedAlsoWhereAConfiguredOneHangs(t *testing.T) {
	s, now := newSearch([]string{"a:1"}), time.Unix(1000, 0)
	s.found("a:1")
	for range 3 {
		server, wait, timeout := s.next([]string{"a:1", "x:1"}, now, 0.5)
		if now = now.Add(wait); server == "x:1" {
			return
		}
		now = now.Add(timeout)
		s.timedOut()
	}
	t.Error("the advertised server is not tried")
}

func TestConfiguredServersGoBeforeAdvertisedOnes(t *testing.T) {
	s := newSearch([]string{"a:1", "b:1", "c:1"})
	s.found("b:1")
	order, _ := tried(s, []string{"x:1", "a:1", "b:1", "y:1", "c:1"}, time.Unix(1000, 0), 90*time.Millisecond, func(string, time.Time) {})
	slices.Sort(order[:2])
	slices.Sort(order[2:4])
	if got := order[:4]; !slices.Equal(got, []string{"a:1", "c:1", "x:1", "y:1"}) {
		t.Errorf("tried %v", order)
	}
}

func TestALoneServerIsTriedFiveToTenTimesASecond(t *testing.T) {
	s := newSearch([]string{"a:1"})
	s.found("a:1")
	order, at := tried(s, []string{"a:1"}, time.Unix(1000, 0), time.Minute, func(string, time.Time) {})
	if n := len(order); n < 300 || n > 600 || at[0] < reconnectWait {
		t.Errorf("tried %d times in a minute, first after %v", n, at[0])
	}
}

func TestRefusedLogInsBackOff(t *testing.T) {
	now := time.Unix(1000, 0)
	s := newSearch([]string{"a:1", "b:1"})
	s.found("a:1")
	refuse := func(_ string, at time.Time) { s.refused(at, 0.5) }
	order, at := tried(s, []string{"a:1", "b:1"}, now, time.Minute, refuse)
	if n := len(order); n > 30 || n < 12 {
		t.Errorf("two servers were asked %d times in a minute", n)
	}
	if last := at[len(at)-1] - at[len(at)-3]; last > refusals.Max+time.Second || last < refusals.Max/2 {
		t.Errorf("the last waits were %v", last)
	}
	s.renew()
	if _, wait, _ := s.next([]string{"a:1", "b:1"}, now.Add(time.Minute), 0.5); wait > betweenServers {
		t.Errorf("with another user it is waited for %v", wait)
	}
}

// One server refuses and the other is away: the one that is away is looked for as if it were alone.
func TestARefusalHoldsUpNoOtherServer(t *testing.T) {
	s := newSearch([]string{"refuses:1", "away:1"})
	s.found("away:1")
	order, _ := tried(s, []string{"refuses:1", "away:1"}, time.Unix(1000, 0), time.Minute, func(server string, at time.Time) {
		if server == "refuses:1" {
			s.refused(at, 0.5)
		}
	})
	away := 0
	for _, server := range order {
		if server == "away:1" {
			away++
		}
	}
	if away < 300 || len(order)-away > 15 {
		t.Errorf("in a minute the one that is away was tried %d times, and the one that refuses %d times", away, len(order)-away)
	}
}

func TestADialHasTheTimeThatTheLinkNeeds(t *testing.T) {
	now, s := time.Unix(1000, 0), newSearch([]string{"a:1"})
	next := func(servers ...string) time.Duration {
		_, _, timeout := s.next(servers, now, 0)
		now = now.Add(time.Minute)
		return timeout
	}
	if d := next("a:1"); d != dialTimeout {
		t.Errorf("one server has %v", d)
	}
	if d := next("a:1", "b:1"); d != dialShort {
		t.Errorf("one of two has %v", d)
	}
	for range 2 {
		s.timedOut()
		next("a:1", "b:1")
	}
	if d := next("a:1", "b:1"); d != 2*dialShort {
		t.Errorf("the second time it has %v", d)
	}
	s.dialed(time.Second)
	if d := next("a:1", "c:1"); d < 4*time.Second {
		t.Errorf("over a link with a round trip of a second it has %v", d)
	}
}

func TestASearchNeverForgetsAServerAndNeverSpins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		servers := []string{"a:1", "b:1", "x:1"}[:rapid.IntRange(1, 3).Draw(t, "servers")]
		s, now := newSearch([]string{"a:1", "b:1"}), time.Unix(1000, 0)
		s.found("a:1")
		order, _ := tried(s, servers, now, 30*time.Second, func(server string, at time.Time) {
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				s.refused(at, rapid.Float64Range(0, 0.999).Draw(t, "jitter"))
			case 1:
				s.timedOut()
			case 2:
				s.dialed(time.Duration(rapid.IntRange(0, 1000).Draw(t, "ms")) * time.Millisecond)
			case 3:
				s.found(server) // and it is lost at once
			}
		})
		for _, server := range servers {
			if !slices.Contains(order, server) {
				t.Fatalf("%s is never tried: %v", server, order)
			}
		}
		if most := 30 * 11 * len(servers); len(order) > most {
			t.Fatalf("%d tries in 30 s", len(order))
		}
	})
}
