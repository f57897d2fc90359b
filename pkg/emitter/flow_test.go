package emitter

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWindowsAreOfTheRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		roundTrip := time.Duration(rapid.Int64Range(0, int64(5*time.Second)).Draw(t, "round trip"))
		f := flow{window: firstWindow}
		f.reach(roundTrip)
		if f.window < firstWindow || f.window > farFirstWindow || f.most < maxWindow || f.most > farMaxWindow || f.window > f.most {
			t.Fatalf("%d, growing to %d", f.window, f.most)
		}
		if roundTrip < hidden && (f.window != firstWindow || f.most != maxWindow || f.mostBytes() != maxInFlight) {
			t.Fatalf("%d, growing to %d, over %s", f.window, f.most, roundTrip)
		}
		halved := flow{window: firstWindow / 2}
		if halved.reach(roundTrip); halved.window != firstWindow/2 {
			t.Fatalf("a window that was halved is %d", halved.window)
		}
	})
}
