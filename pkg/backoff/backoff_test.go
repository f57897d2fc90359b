package backoff

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEachWaitIsTwiceTheLastUpToTheBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := time.Duration(rapid.Int64Range(1, 1<<62).Draw(t, "first"))
		b := Backoff{First: first, Max: time.Duration(rapid.Int64Range(1, 1<<63-1).Draw(t, "max"))}
		failures := rapid.IntRange(1, 1<<40).Draw(t, "failures")
		if b.After(0) != b.After(1) || b.After(1) != min(b.First, b.Max) {
			t.Fatalf("%s after none, %s after one", b.After(0), b.After(1))
		}
		before, after := b.After(failures), b.After(failures+1)
		switch {
		case after <= 0 || after > b.Max:
			t.Fatalf("%s after %d", after, failures+1)
		case after == b.Max:
			if before <= b.Max/2-1 {
				t.Fatalf("the bound comes after %s", before)
			}
		case after != 2*before:
			t.Fatalf("%s after %s", after, before)
		}
	})
}

func TestSpreadStaysWithinATenth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "interval"))
		if got := Spread(d, Jitter()); got < d-d/10-1 || got > d+d/10+1 {
			t.Fatalf("%s of %s", got, d)
		}
		if got := Spread(d, 0); got != d {
			t.Fatalf("%s of %s without jitter", got, d)
		}
	})
}

func TestSleepEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if err := Sleep(t.Context(), time.Second); err != nil || time.Since(began) != time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := Sleep(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 2*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}
