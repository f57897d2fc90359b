package breaker

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

var settings = Settings{MaxFailures: 5, DegradedFailures: 3, Exponential: true, Retry: 3 * time.Second, MaxBackoff: time.Minute}

func TestHealthFollowsTheThresholds(t *testing.T) {
	for failures, want := range []Health{Healthy, Healthy, Healthy, Degraded, Degraded, Failed, Failed} {
		if got := settings.Health(failures); got != want {
			t.Errorf("%d failures: %s, want %s", failures, got, want)
		}
	}
}

func TestBackoffDoublesUpToItsBound(t *testing.T) {
	for failures, want := range []time.Duration{0: time.Second, 1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 6: 32 * time.Second, 7: time.Minute, 64: time.Minute, 1000: time.Minute} {
		if want == 0 {
			continue
		}
		if got := settings.Backoff(failures, 0); got != want {
			t.Errorf("%d failures: %s, want %s", failures, got, want)
		}
	}
	constant := settings
	constant.Exponential = false
	if got := constant.Backoff(9, 0); got != constant.Retry {
		t.Errorf("constant backoff: %s, want %s", got, constant.Retry)
	}
}

func TestBackoffStaysWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := settings
		s.Exponential = rapid.Bool().Draw(t, "exponential")
		failures := rapid.IntRange(1, 1<<40).Draw(t, "failures")
		nominal, got := s.Backoff(failures, 0), s.Backoff(failures, rapid.Float64Range(-1, 0.9999).Draw(t, "jitter"))
		if got > s.MaxBackoff || got < nominal*9/10 || got > nominal*11/10 {
			t.Fatalf("%d failures: %s, nominal %s", failures, got, nominal)
		}
	})
}

func TestBreakerOpensForTheIntervalAndLetsOneProbePass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Breaker
		for n := range settings.MaxFailures {
			if b.State() != Closed || !b.Allow() {
				t.Fatalf("%s after %d failures", b.State(), n)
			}
			b.Failure(&settings, 16*time.Second)
		}
		if b.State() != Open || b.Allow() {
			t.Fatalf("%s after %d failures", b.State(), settings.MaxFailures)
		}
		time.Sleep(15 * time.Second)
		if b.Allow() {
			t.Fatal("admitted before the interval was over")
		}
		time.Sleep(time.Second)
		if b.State() != HalfOpen || !b.Allow() {
			t.Fatalf("%s after the interval", b.State())
		}
		if b.Allow() {
			t.Fatal("a second probe was admitted")
		}
		b.Failure(&settings, 32*time.Second)
		time.Sleep(31 * time.Second)
		if b.State() != Open {
			t.Fatalf("%s before the longer interval was over", b.State())
		}
		time.Sleep(time.Second)
		if !b.Allow() {
			t.Fatal("refused after the longer interval")
		}
		b.Success()
		if b.State() != Closed {
			t.Fatalf("%s after a success", b.State())
		}
	})
}

func TestProbePassesAnOpenBreakerOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Breaker
		b.Probe()
		if b.State() != Closed {
			t.Fatalf("a probe of a closed breaker made it %s", b.State())
		}
		for range settings.MaxFailures {
			b.Allow()
			b.Failure(&settings, time.Minute)
		}
		b.Probe()
		if b.State() != HalfOpen || !b.Allow() {
			t.Fatalf("%s after a probe", b.State())
		}
		b.Failure(&settings, time.Minute)
		if b.State() != Open || b.Allow() {
			t.Fatalf("%s after the probe failed", b.State())
		}
		b.Probe()
		b.Allow()
		b.Success()
		if b.State() != Closed {
			t.Fatalf("%s after the probe succeeded", b.State())
		}
	})
}
