package lease

import (
	"errors"
	"math"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/kv"
)

// Defaults of a lease.
const (
	DefaultTTL   = 3 * time.Second
	DefaultGrace = time.Second
)

// The range of a lease's TTL.
const (
	MinTTL = 100 * time.Millisecond // it leaves a renewal a few round trips
	// MaxTTL is the longest that is believed. One of a day is a mistake, and would keep a store without a leader.
	MaxTTL = time.Hour
)

// The pace of renewals and of tries.
const (
	Renewals = 4  // renewals a TTL: one can be lost before anybody even asks
	retries  = 20 // tries a TTL while a renewal fails, but not closer together than MinRetry, nor further than MaxRetry
	MinRetry = 10 * time.Millisecond
	MaxRetry = 200 * time.Millisecond
	// Garbage is how long after its TTL the bucket removes a record. By then the others have judged for themselves.
	Garbage = 2 * time.Second
)

// InputKind says what happened.
type InputKind uint8

// The kinds of inputs.
const (
	TimerDue       InputKind = iota // the time of Effects.Next has come, or the start
	EntryHeard                      // the feed shows Entry
	KeysTrimmed                     // entries below Revision are gone from the bucket
	BucketReplaced                  // the bucket is another
	Answered                        // the request has ended: Entry and Found, or Revision; Err
	FeedLevel                       // all that the bucket held was heard; rules that read their key do not need it
)

// Input is what happened to a key that rules are about.
type Input struct {
	Kind     InputKind
	Entry    kv.Entry
	Found    bool
	Revision uint64
	Err      error
}

// Operation is what a request does.
type Operation uint8

// The operations.
const (
	NoRequest Operation = iota
	Reading
	Writing
	Deleting
)

// InFlight is the one request that is under way.
type InFlight[R any] struct {
	Is     Operation
	On     uint64 // the revision that a write is conditional on
	Record R      // that is written
	Sent   time.Time
}

// Gone reports whether a request failed because the bucket is not there.
func Gone(err error) bool {
	for _, gone := range []error{
		kv.ErrNoStream, nats.ErrNoResponders, nats.ErrStreamNotFound, jetstream.ErrStreamNotFound, jetstream.ErrNoStreamResponse,
	} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// RenewIn is the time from one renewal to the next.
func RenewIn(ttl time.Duration, rand func() float64) time.Duration { return spread(ttl/Renewals, rand) }

// RetryIn is the time to the next try after one that failed.
func RetryIn(ttl time.Duration, rand func() float64) time.Duration {
	return spread(min(max(ttl/retries, MinRetry), MaxRetry), rand)
}

// spread varies a duration by an eighth to either side.
func spread(d time.Duration, rand func() float64) time.Duration {
	return time.Duration(float64(d) * (0.875 + rand()/4))
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

// BucketTTL is how long the bucket keeps a record that is not renewed. It is in whole seconds, as the bucket counts.
func BucketTTL(ttl time.Duration) time.Duration {
	return time.Duration(math.Ceil(ttl.Seconds()))*time.Second + Garbage
}
