// Package registrar makes attempts to register, in batches: 10,000 of them are a few pipelined writes and
// read-backs.
//
// An attempt is a write that is conditional on what was last seen of the key. One that loses its race reads
// who won, and is written again unless another instance has the better claim. What was written is read
// back, and package verify judges it. Release deletes what this instance holds no longer.
//
// It promises: one result for each attempt, at its index; no write that is not conditional; none after the
// run was retired. What was registered before, when to try again, and what health follows is for package
// proxy to know, which takes the outcome.
package registrar

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
	"github.com/exesdb/subproxy/pkg/verify"
)

// Bucket is where attempts are made; *kv.Bucket is one.
type Bucket interface {
	verify.Bucket
	Put(ctx context.Context, writes []kv.Write) []kv.Result
}

// Options are what a Registrar works with. Bucket, Owner and Verifications are required.
type Options struct {
	Bucket Bucket
	Owner  registration.Owner // this instance
	// Ensure opens the bucket again where a write found no stream; nil where it can't be.
	Ensure func(context.Context) error
	// Retired reports whether another run of this instance's name took over. Nothing is written from then
	// on.
	Retired func() bool
	// Members are those that subscriptions are shared with; nil, or nil inside: they are not shared.
	Members func() *placement.Members
	// Verifications counts what read-backs found, by outcome.
	Verifications *prometheus.CounterVec
}

// Registrar makes attempts. It is safe for concurrent use.
type Registrar struct {
	Options
	matcher registration.OwnerMatcher
}

// New makes a registrar.
func New(o Options) *Registrar {
	if o.Retired == nil {
		o.Retired = func() bool { return false }
	}
	if o.Members == nil {
		o.Members = func() *placement.Members { return nil }
	}
	return &Registrar{Options: o, matcher: o.Owner.Matcher()}
}

// Attempt is one registration to be made.
type Attempt struct {
	Subscription   subscription.Subscription
	Key            string
	DeliverSubject string
	Revision       uint64 // that the write is conditional on
	Incarnation    uint64
	Known          bool              // the record at Revision was seen, or it is known that there is none
	HandedOver     *proxy.HandedOver // nil: the holder before did not hand it over
	Cause          registration.Cause
	Term           uint64
	// OnWrite, where set, is called before the record goes out, each time that it is written: an emitter
	// may send before the write is acknowledged. HandedOver tells whether the record says where the holder
	// before stopped.
	OnWrite func(incarnation uint64, handedOver bool)
}

// Result is how an attempt ended.
type Result struct {
	proxy.Outcome
	Term uint64 // the highest known, those of records found in the way included
}

// errRetired ends attempts that were not yet written when this run was superseded.
var errRetired = errors.New("another run of this instance's name took over")

// Register makes the attempts: write, resolve the races lost, read back within that time (0: what is
// acknowledged counts). The result at an index is that attempt's.
func (r *Registrar) Register(ctx context.Context, attempts []Attempt, verifyWithin time.Duration) []Result {
	b := &batch{Registrar: r, attempts: attempts, results: make([]Result, len(attempts))}
	written := b.write(ctx)
	if verifyWithin > 0 {
		b.readBack(ctx, written, verifyWithin)
	}
	now := time.Now()
	for i := range b.results {
		b.results[i].At, b.results[i].Term = now, attempts[i].Term
	}
	return b.results
}

// Patience is how long to wait for a batch that the bucket may take up to work for: that, and the way there and
// back for a write, a race that it loses, and a read.
func (r *Registrar) Patience(work time.Duration) time.Duration {
	return work + 3*(r.Bucket.Patience(work)-work)
}

// Release deletes records that this instance holds no longer: writes without data. A conflict may be an own
// write that was acknowledged late or never, so the bucket is looked at once more; a record of somebody
// else stays. The error at an index is that of the record which could not be released.
func (r *Registrar) Release(ctx context.Context, deletions []kv.Write) []error {
	failures := make([]error, len(deletions))
	if r.Retired() {
		return failures
	}
	var again []kv.Write
	var index []int // of those, in deletions
	for i, result := range r.Bucket.Put(ctx, deletions) {
		if !errors.Is(result.Err, kv.ErrConflict) {
			failures[i] = result.Err
			continue
		}
		w, mine, err := r.ownLater(ctx, deletions[i])
		if failures[i] = err; mine {
			again, index = append(again, w), append(index, i)
		}
	}
	for n, result := range r.Bucket.Put(ctx, again) {
		if !errors.Is(result.Err, kv.ErrConflict) {
			failures[index[n]] = result.Err
		}
	}
	return failures
}

// ownLater is the deletion of a later record of this instance than the one that was to be deleted, where
// there is one.
func (r *Registrar) ownLater(ctx context.Context, w kv.Write) (_ kv.Write, mine bool, _ error) {
	found, ok, err := r.Bucket.GetFromLeader(ctx, w.Key)
	if err != nil || !ok || !found.Contains(r.matcher) {
		return w, false, err
	}
	w.Revision = found.Revision
	if record, err := registration.Decode(found.Key, found.Data); err == nil {
		w.Incarnation = max(w.Incarnation, record.Incarnation)
	}
	return w, true, nil
}
