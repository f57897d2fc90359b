package delivery

import (
	"errors"
	"testing"

	"github.com/exesdb/subproxy/pkg/sink"
)

func TestHolderIsToldOnceThatASinkFailsAndOnceThatItRecovers(t *testing.T) {
	for _, c := range []struct {
		err   error
		after int
	}{{errors.New("nobody is there"), tellAfter}, {sink.ErrDenied, 1}} {
		var h health
		if failed, tell := h.recover(); failed || tell {
			t.Error("a sink that never failed recovers")
		}
		for n := 1; n <= 2*tellAfter; n++ {
			if tell := h.fail(c.err); tell != (n == c.after) {
				t.Errorf("%v: the holder is told at attempt %d: %v", c.err, n, tell)
			}
		}
		if !h.holdUp() || h.holdUp() {
			t.Errorf("%v: the holder is not told once that the event can't be parked", c.err)
		}
		if failed, tell := h.recover(); !failed || !tell {
			t.Errorf("%v: a sink that recovers failed: %v; the holder is told: %v", c.err, failed, tell)
		}
		if h.failures != 2*tellAfter || h.failing > 0 || h.told {
			t.Errorf("%v: %+v", c.err, h)
		}
	}
}
