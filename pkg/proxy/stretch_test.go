package proxy

import (
	"testing"
	"time"

	"pgregory.net/rapid"
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
