// Package backoff says how long to wait before what failed is tried again, and waits.
//
// A Backoff is a function of the number of failures: it has no state and reads no clock, so that rules that
// are given their time use it as loops do. Whoever waits beside many others varies the wait with Spread.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff are the waits between tries: First after the first failure, twice as long after each further one,
// Max at the most.
type Backoff struct {
	First time.Duration // above 0
	Max   time.Duration
}

// After is the wait after that many failures in a row. After none it is First.
func (b Backoff) After(failures int) time.Duration {
	doublings := min(max(failures-1, 0), 62) // 63 would leave nothing of any Max
	if b.First > b.Max>>doublings {
		return b.Max
	}
	return b.First << doublings
}

// Share is how far, at the most, Spread moves an interval: a tenth of it, to either side.
const Share = 0.1

// Spread lengthens or shortens an interval by up to Share of it; jitter is in [-1, 1), and 0 leaves it as
// it is.
func Spread(interval time.Duration, jitter float64) time.Duration {
	return interval + time.Duration(Share*jitter*float64(interval))
}

// Jitter is a random number in [-1, 1), for Spread.
func Jitter() float64 { return 2*rand.Float64() - 1 }

// Sleep waits for d. Where ctx ends before, it returns the context's error then.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
