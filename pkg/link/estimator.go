package link

import "time"

const (
	// unmeasured is what a round trip is taken to be before one was measured (RFC 6298, 2.1).
	unmeasured = time.Second
	// granularity is the least that is added for the variation of round trips: that of timers, and of
	// a scheduler with more to do than processors.
	granularity = 10 * time.Millisecond
)

// Estimator estimates how long a round trip takes. It is a plain value; the zero value has measured none.
type Estimator struct {
	smoothed  time.Duration // 0: none was measured
	variation time.Duration // mean deviation from it
	least     time.Duration // of all that were measured: what is above that was spent in a queue
}

// Observe takes one more round trip: the time from a request to its answer, or to the first of them.
func (e *Estimator) Observe(took time.Duration) {
	took = max(took, time.Nanosecond)
	if e.smoothed == 0 {
		e.smoothed, e.variation, e.least = took, took/2, took
		return
	}
	e.variation += ((e.smoothed - took).Abs() - e.variation) / 4
	e.smoothed += (took - e.smoothed) / 8
	e.least = min(e.least, took)
}

// RoundTrip is how long a round trip takes at present; 0: none was measured.
func (e *Estimator) RoundTrip() time.Duration { return e.smoothed }

// Least is the shortest round trip that was measured; 0: none was.
func (e *Estimator) Least() time.Duration { return e.least }

// Patience is how long to wait for the answer of somebody who takes up to work for it: that, and the way
// there and back.
func (e *Estimator) Patience(work time.Duration) time.Duration {
	if e.smoothed == 0 {
		return work + unmeasured
	}
	return work + e.smoothed + max(granularity, 4*e.variation)
}
