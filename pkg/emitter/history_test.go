package emitter

import (
	"math"
	"testing"
)

func TestEpochTellsHowFarTheStreamWentBack(t *testing.T) {
	for epoch, want := range map[string]uint64{
		"17": math.MaxUint64, "17-80-x": 80, laterEpoch("17", 12): 12, "17-x": math.MaxUint64, "18-80-x": math.MaxUint64,
	} {
		if got := shared(epoch, "17"); got != want {
			t.Errorf("%s: %d, want %d", epoch, got, want)
		}
	}
	for epoch, want := range map[string]bool{"17": true, laterEpoch("17", 1): true, "170": false, "1": false, "": false} {
		if ofStream(epoch, "17") != want {
			t.Errorf("%q is of stream 17: %v", epoch, !want)
		}
	}
}
