package proxy

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/health"
)

func TestTimersWaitLongerWithTheRootOfWhatIsHeld(t *testing.T) {
	s := Settings{InitialInterval: time.Second, NormalInterval: 15 * time.Second, HeartbeatInterval: 30 * time.Second, EventDriven: true}
	for held, want := range map[int]time.Duration{
		0: 15 * time.Second, 1000: 15 * time.Second, 4000: 30 * time.Second, 100_000: 150 * time.Second,
	} {
		got := s.Stretched(held)
		if got.NormalInterval.Round(time.Millisecond) != want || got.InitialInterval.Round(time.Millisecond) != want/15 || got.HeartbeatInterval != s.HeartbeatInterval {
			t.Errorf("%d held: %+v, want %v", held, got, want)
		}
	}
	s.EventDriven = false
	if got := s.Stretched(100_000); got != s {
		t.Errorf("without events: %+v, want %+v", got, s)
	}
}

func TestIdleAttemptsGrowAndMoreSlowlyThanWhatIsHeld(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Settings{InitialInterval: time.Second, NormalInterval: time.Duration(rapid.Int64Range(int64(time.Second), int64(time.Hour)).Draw(t, "interval")), EventDriven: true}
		rate := func(held int) float64 { return float64(held) / s.Stretched(held).NormalInterval.Seconds() }
		few := rapid.IntRange(1, 200_000).Draw(t, "few")
		many := few + rapid.IntRange(1, 200_000).Draw(t, "more")
		const rounding = 1e-6 // intervals are whole nanoseconds
		if grown := rate(many) / rate(few); grown < 1-rounding || grown > float64(many)/float64(few)+rounding {
			t.Fatalf("from %d to %d, attempts a second grow by %v", few, many, grown)
		}
	})
}

func TestSubscriptionsOfAllStoresStretchTheTimersOfEach(t *testing.T) {
	bubble(t, func(t *testing.T) {
		settings := testSettings
		settings.InitialInterval, settings.NormalInterval = time.Minute, time.Minute
		r := newRig(t, settings, 2000)
		defer r.stop()
		subs := testSubscriptions(4000)
		for i := range subs[2000:] {
			subs[2000+i].Store = "other"
		}
		r.Apply(subs)
		synctest.Wait()
		other := func(st health.Status) bool {
			wait := time.Until(*st.NextAttemptAt)
			return st.Store != "other" || wait >= 108*time.Second && wait <= 132*time.Second // twice a minute, 10 % either way
		}
		r.require(4000, "due in two minutes", other)
		r.Apply(subs[:10])
		synctest.Wait()
		if held := r.holding.Load(); held != 10 {
			t.Errorf("%d are held after the others were released", held)
		}
	})
}
