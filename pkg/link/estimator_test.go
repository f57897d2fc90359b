package link

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func durations(least, most time.Duration) *rapid.Generator[time.Duration] {
	return rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.Int64Range(int64(least), int64(most)).Draw(t, "duration"))
	})
}

func TestPatienceIsAboveTheRoundTripsThatWereMeasured(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e Estimator
		least, most := durations(time.Microsecond, 5*time.Second).Draw(t, "least"), time.Duration(0)
		spread := durations(0, 200*time.Millisecond).Draw(t, "spread")
		work := durations(0, time.Second).Draw(t, "work")
		for _, beyond := range rapid.SliceOfN(durations(0, spread), 1, 200).Draw(t, "beyond") {
			e.Observe(least + beyond)
			most = max(most, least+beyond)
		}
		if e.Patience(work) < work+least {
			t.Fatalf("%s for a round trip of %s to %s and %s of work", e.Patience(work), least, most, work)
		}
		if e.RoundTrip() < least || e.RoundTrip() > most || e.Least() < least {
			t.Fatalf("%s, at least %s, of round trips of %s to %s", e.RoundTrip(), e.Least(), least, most)
		}
	})
}

func TestPatienceFollowsARoundTripThatChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e Estimator
		before, after := durations(time.Microsecond, 3*time.Second).Draw(t, "before"), durations(time.Microsecond, 3*time.Second).Draw(t, "after")
		for range 50 {
			e.Observe(before)
		}
		e.Observe(after)
		if e.Patience(0) < after/2 {
			t.Fatalf("%s after one round trip of %s in place of %s", e.Patience(0), after, before)
		}
		for range 100 {
			e.Observe(after)
		}
		if p := e.Patience(0); p < after || p > after+after/10+2*granularity {
			t.Fatalf("%s after a hundred round trips of %s", p, after)
		}
	})
}

func TestPatienceBeforeAnythingIsMeasured(t *testing.T) {
	var e Estimator
	if e.Patience(time.Second) != time.Second+unmeasured || e.RoundTrip() != 0 {
		t.Fatalf("%s, round trip %s", e.Patience(time.Second), e.RoundTrip())
	}
}
