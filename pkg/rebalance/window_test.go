package rebalance

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWindowFindsWhatIsFastEnough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, now := newWindow(), time.Unix(0, 0)
		each := time.Duration(rapid.IntRange(1, 3000).Draw(t, "each")) * time.Microsecond // of what is on its way
		var f latencyFloor
		if far := time.Duration(rapid.IntRange(0, 50).Draw(t, "far")) * time.Millisecond; far > 0 { // what a registration takes by itself
			f.observe(far, now)
		}
		slow := f.slow()
		enough := max(minWindow, int(slow/each))
		for range 100 {
			released := now
			now = now.Add(time.Duration(w.size) * each)
			for range w.size {
				w.observe(released, now, slow)
			}
			if w.size < minWindow || w.size > MaxWindow {
				t.Fatalf("%d at once", w.size)
			}
		}
		if w.size > 2*enough || w.size < min(enough, MaxWindow)/4 {
			t.Fatalf("%d at once, where %d take as long as they may", w.size, enough)
		}
	})
}

func TestFastestRegistrationLatelySaysWhatIsSlow(t *testing.T) {
	var f latencyFloor
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		after, took, want time.Duration
	}{
		{0, time.Millisecond, slowTransfer}, // nothing is far away here
		{time.Second, 50 * time.Millisecond, slowTransfer},
		{latencyPeriod, 20 * time.Millisecond, slowTransfer}, // the period before counts
		{time.Second, 30 * time.Millisecond, slowTransfer},
		{latencyPeriod, 30 * time.Millisecond, 60 * time.Millisecond},
		{latencyPeriod + time.Second, 40 * time.Millisecond, 90 * time.Millisecond},
	} {
		now = now.Add(c.after)
		if f.observe(c.took, now); f.slow() != c.want {
			t.Errorf("%v later one took %v: %v is slow, want %v", c.after, c.took, f.slow(), c.want)
		}
	}
}
