package lease

import (
	"math"
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
)

// Defaults of a lease.
const (
	DefaultTTL   = 3 * time.Second
	DefaultGrace = time.Second
)

// The range of a lease's TTL.
const (
	MinTTL = 100 * time.Millisecond // it leaves a renewal a few round trips
	// MaxTTL is the longest that is believed. One of a day is a mistake, and would keep a store without a
	// leader.
	MaxTTL = time.Hour
)

// Renewals is how many there are in a TTL: one can be lost before anybody even asks.
const Renewals = 4

// Tries of what failed: some in a TTL, but not closer together than MinRetry, nor further than maxRetry.
const (
	retries  = 20
	MinRetry = 10 * time.Millisecond
	maxRetry = 200 * time.Millisecond
)

// bucketGrace is how long after its TTL the bucket removes a record. By then the others have judged for
// themselves.
const bucketGrace = 2 * time.Second

// renewIn is the time from one renewal to the next.
func renewIn(ttl time.Duration, jitter func() float64) time.Duration {
	return backoff.Spread(ttl/Renewals, jitter())
}

// RetryIn is the time to the next try after one that failed; jitter is from -1 to 1.
func RetryIn(ttl time.Duration, jitter func() float64) time.Duration {
	return backoff.Spread(min(max(ttl/retries, MinRetry), maxRetry), jitter())
}

// Later is the later of two times.
func Later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// BoundedTTL is the TTL that a record says, in milliseconds; ours where that is none that can be believed.
func BoundedTTL(millis int64, ours time.Duration) time.Duration {
	if millis <= 0 || millis > MaxTTL.Milliseconds() {
		return ours
	}
	return time.Duration(millis) * time.Millisecond
}

// BucketTTL is how long the bucket keeps a record that is not renewed. It is in whole seconds, as the
// bucket counts.
func BucketTTL(ttl time.Duration) time.Duration {
	return time.Duration(math.Ceil(ttl.Seconds()))*time.Second + bucketGrace
}
