// Package verify reads registrations back: what the bucket holds, never what a write's acknowledgement
// said.
//
// A read may be answered by any replica, and NATS gives no read-your-writes there, so a revision below the
// one written (or nothing at all) is first of all a replica that lags: ReadBack reads again until the
// replica caught up, then asks the leader, and gives up after its time-out. Only a record that names this
// instance, at or above the revision written, is verified.
package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
)

// Outcome says what a read-back found.
type Outcome uint8

// The outcomes.
const (
	Unreadable Outcome = iota // the bucket could not be read
	Verified                  // this instance, at or above the revision written
	Lagging                   // a revision below the one written: a replica that has not caught up
	WrongOwner                // a later revision that is not this instance's
	Missing                   // nothing, or a marker at or above the revision written
)

// String names the outcome for records, logs and metrics.
func (o Outcome) String() string {
	return [...]string{"unreadable", "verified", "lagging", "wrong_owner", "missing"}[o]
}

// Errors behind the outcomes, for callers to match.
var (
	ErrLagging    = errors.New("the replicas read lag behind the write")
	ErrWrongOwner = errors.New("the registration names another owner")
	ErrMissing    = errors.New("the registration is not there")
	ErrUnreadable = errors.New("the registration could not be read")
)

// Err is the sentinel error of an outcome; nil for Verified.
func (o Outcome) Err() error {
	return [...]error{ErrUnreadable, nil, ErrLagging, ErrWrongOwner, ErrMissing}[o]
}

// Expect is one registration to read back.
type Expect struct {
	Key      string
	Revision uint64 // the revision written
}

// Result is what was found for the Expect at the same index.
type Result struct {
	Outcome Outcome
	Found   kv.Entry // the last entry read; zero where nothing was there
	Err     error    // nil for Verified; else Outcome.Err, with what was found
}

// Bucket is what ReadBack reads from; *kv.Bucket is one.
type Bucket interface {
	// Patience is how long to wait for an answer for which whoever gives it may take up to work.
	Patience(work time.Duration) time.Duration
	Get(ctx context.Context, key string) (kv.Entry, bool, error)
	GetLast(ctx context.Context, keys []string, found func(kv.Entry)) error
	GetFromLeader(ctx context.Context, key string) (kv.Entry, bool, error)
}

// Judge decides what a found entry means for an expectation. It is the whole rule; the rest of the package
// is reading.
func Judge(expect Expect, found kv.Entry, ok bool, owner registration.OwnerMatcher) Outcome {
	switch {
	case !ok:
		return Missing
	case found.Revision < expect.Revision:
		return Lagging
	case found.Operation != kv.Put:
		return Missing
	case !found.Contains(owner):
		return WrongOwner
	default:
		return Verified
	}
}

// rereading are the waits before a lagging replica is read again. Replicas on one network are within a
// millisecond or two of each other, and after askLeaderAfter reads the leader knows better.
var rereading = backoff.Backoff{First: 2 * time.Millisecond, Max: 100 * time.Millisecond}

const askLeaderAfter = 3

// A replica may take a part of the time-out for a read, and at least leastRead: what is not answered by then,
// and by the time for the way there and back, went to a replica that hangs or is cut off, to which the others
// route for minutes, and is asked again, of another with luck.
const (
	readShare = 4
	leastRead = 50 * time.Millisecond
)

// ReadBack reads every expectation until it is verified or known to be wrong, within timeout, which is the
// bucket's to answer: the way there and back, readShare times, is added.
func ReadBack(ctx context.Context, bucket Bucket, owner registration.OwnerMatcher, expects []Expect, timeout time.Duration) []Result {
	way := bucket.Patience(timeout) - timeout
	ctx, cancel := context.WithTimeout(ctx, timeout+readShare*way)
	defer cancel()
	results := make([]Result, len(expects))
	open := make([]int, len(expects)) // indexes still to be read
	for i := range open {
		open[i] = i
	}
	patience := max(timeout/readShare, leastRead) + way
	for reads := 1; ; reads++ {
		err := read(ctx, patience, bucket, owner, expects, open, results)
		leaderSaid := err == nil && reads > askLeaderAfter && askLeader(ctx, bucket, owner, expects, open, results)
		open = stillOpen(open, results, leaderSaid)
		if len(open) == 0 {
			return explain(results, nil)
		}
		if backoff.Sleep(ctx, rereading.After(reads)) != nil {
			return explain(results, err)
		}
	}
}

// read fills in results for the open indexes; what could not be read keeps what an earlier read found, or
// Unreadable.
func read(ctx context.Context, patience time.Duration, bucket Bucket, owner registration.OwnerMatcher, expects []Expect, open []int, results []Result) error {
	if len(open) == 1 {
		i := open[0]
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		found, ok, err := bucket.Get(ctx, expects[i].Key)
		if err != nil {
			results[i] = Result{Outcome: Unreadable, Err: err}
			return err
		}
		results[i] = Result{Outcome: Judge(expects[i], found, ok, owner), Found: found}
		return nil
	}
	for len(open) > 0 {
		part := open[:pageLength(expects, open)]
		open = open[len(part):]
		if err := readPage(ctx, patience, bucket, owner, expects, part, results); err != nil {
			for _, i := range append(part, open...) {
				if results[i].Outcome != Verified {
					results[i] = Result{Outcome: Unreadable, Err: err}
				}
			}
			return err
		}
	}
	return nil
}

func readPage(ctx context.Context, patience time.Duration, bucket Bucket, owner registration.OwnerMatcher, expects []Expect, part []int, results []Result) error {
	keys := make([]string, len(part))
	index := make(map[string]int, len(part))
	for n, i := range part {
		keys[n] = expects[i].Key
		index[expects[i].Key] = i
		results[i] = Result{Outcome: Missing}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return bucket.GetLast(ctx, keys, func(found kv.Entry) {
		if i, ok := index[found.Key]; ok {
			results[i] = Result{Outcome: Judge(expects[i], found, true, owner), Found: found}
		}
	})
}

// maxRequest bounds the keys of a page, in bytes: so long a page is one request where the server has NATS's
// default max_payload, and patience is that of a request.
const maxRequest = 256 << 10

func pageLength(expects []Expect, open []int) int {
	size := 0
	for n, i := range open {
		if size += len(expects[i].Key) + 40; n == kv.MaxGetLast || size > maxRequest {
			return max(n, 1)
		}
	}
	return len(open)
}

// askLeader replaces the doubtful results by what the leader says, which has applied every write it
// acknowledged.
func askLeader(ctx context.Context, bucket Bucket, owner registration.OwnerMatcher, expects []Expect, open []int, results []Result) (said bool) {
	for _, i := range open {
		if o := results[i].Outcome; o != Missing && o != Lagging {
			continue
		}
		found, ok, err := bucket.GetFromLeader(ctx, expects[i].Key)
		if err != nil {
			return false // the leader is away; what the replicas say stands until the time-out
		}
		results[i] = Result{Outcome: Judge(expects[i], found, ok, owner), Found: found}
	}
	return true
}

// stillOpen keeps the indexes worth reading again. Missing is final only from the leader, or as a marker
// that is newer than the write; lagging and unreadable never are.
func stillOpen(open []int, results []Result, leaderAsked bool) []int {
	kept := open[:0]
	for _, i := range open {
		switch r := results[i]; {
		case r.Outcome == Lagging, r.Outcome == Unreadable:
			kept = append(kept, i)
		case r.Outcome == Missing && r.Found.Revision == 0 && !leaderAsked:
			kept = append(kept, i)
		}
	}
	return kept
}

func explain(results []Result, read error) []Result {
	for i := range results {
		r := &results[i]
		switch {
		case r.Outcome == Verified:
		case r.Err != nil:
			r.Err = fmt.Errorf("%w: %w", r.Outcome.Err(), r.Err)
		case r.Outcome == Unreadable && read != nil:
			r.Err = fmt.Errorf("%w: %w", ErrUnreadable, read)
		case r.Found.Revision > 0:
			r.Err = fmt.Errorf("%w: revision %d", r.Outcome.Err(), r.Found.Revision)
		default:
			r.Err = r.Outcome.Err()
		}
	}
	return results
}
