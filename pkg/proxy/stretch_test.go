package proxy

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/status"
)

func TestTimersWaitLongerWithTheRootOfWhatThereIs(t *testing.T) {
	s := Settings{InitialInterval: time.Second, NormalInterval: 15 * time.Second, HeartbeatInterval: 30 * time.Second, EventDriven: true}
	for n, want := range map[int]time.Duration{
		0: 15 * time.Second, 1000: 15 * time.Second, 4000: 30 * time.Second, 100_000: 150 * time.Second,
	} {
		got := s.Stretched(n)
		if got.NormalInterval.Round(time.Millisecond) != want || got.InitialInterval.Round(time.Millisecond) != want/15 || got.HeartbeatInterval != s.HeartbeatInterval {
			t.Errorf("%d: %+v, want %v", n, got, want)
		}
	}
	s.EventDriven = false
	if got := s.Stretched(100_000); got != s {
		t.Errorf("without events: %+v, want %+v", got, s)
	}
}

func TestIdleAttemptsGrowMoreSlowlyThanSubscriptions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Settings{InitialInterval: time.Second, NormalInterval: time.Duration(rapid.Int64Range(int64(time.Second), int64(time.Hour)).Draw(t, "interval")), EventDriven: true}
		rate := func(n int) float64 { return float64(n) / s.Stretched(n).NormalInterval.Seconds() }
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
		other := func(st status.Status) bool {
			wait := time.Until(*st.NextAttemptAt)
			return st.Store != "other" || wait >= 108*time.Second && wait <= 132*time.Second // twice a minute, 10 % either way
		}
		r.require(4000, "due in two minutes", other)
		r.Apply(subs[:10])
		synctest.Wait()
		if got := r.some("s")[0].rules().NormalInterval; got != time.Minute {
			t.Errorf("%v after the others were taken away", got)
		}
	})
}
