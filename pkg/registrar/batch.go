package registrar

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
	"github.com/exesdb/subproxy/pkg/verify"
)

// maxConflicts is how many races one attempt may lose before it counts as failed.
const maxConflicts = 4

// batch is attempts that are made together. What it learns on the way is written into the attempts.
type batch struct {
	*Registrar
	attempts []Attempt
	results  []Result
}

// write writes every attempt's record and returns the indexes of those that are in the bucket; the others'
// results are set.
func (b *batch) write(ctx context.Context) (written []int) {
	open := make([]int, len(b.attempts))
	for i := range open {
		open[i] = i
	}
	written = make([]int, 0, len(b.attempts))
	for races := 0; len(open) > 0; races++ {
		var lost []int
		results := b.put(ctx, open)
		for n, i := range open {
			switch err := results[n].Err; {
			case err == nil:
				b.results[i].Revision, b.results[i].Incarnation = results[n].Revision, b.attempts[i].Incarnation
				b.results[i].Written = true
				written = append(written, i)
			case errors.Is(err, kv.ErrConflict) && races < maxConflicts:
				lost = append(lost, i)
			default:
				b.results[i].Err = fmt.Errorf("register %s: %w", b.attempts[i].Subscription, err)
			}
		}
		open = b.resolveRaces(ctx, lost)
	}
	for i := range b.results {
		if r, a := &b.results[i], &b.attempts[i]; r.Err != nil {
			r.Revision, r.Incarnation, r.Known = max(r.Revision, a.Revision), a.Incarnation, a.Known
		}
	}
	return written
}

// put writes the open attempts' records. Where the bucket turns out to be gone it is made anew and they are
// written again; what they were conditional on is gone with it, and the races that they lose then are
// resolved.
func (b *batch) put(ctx context.Context, open []int) []kv.Result {
	writes := make([]kv.Write, len(open))
	for n, i := range open {
		a := &b.attempts[i]
		if a.HandedOver != nil && a.HandedOver.Revision != a.Revision {
			a.HandedOver = nil // somebody may have held it in between, and got further
		}
		data, err := b.record(a)
		if err != nil {
			return failAll(len(open), err)
		}
		writes[n] = kv.Write{Key: a.Key, Data: data, Revision: a.Revision}
		if a.OnWrite != nil {
			a.OnWrite(a.Incarnation, a.HandedOver != nil)
		}
	}
	if b.Retired() {
		return failAll(len(open), errRetired)
	}
	results := b.Bucket.Put(ctx, writes)
	if b.Ensure == nil || !errors.Is(results[0].Err, kv.ErrNoStream) {
		return results
	}
	if err := b.Ensure(ctx); err != nil {
		return failAll(len(open), err)
	}
	if b.Retired() { // it may have taken seconds
		return failAll(len(open), errRetired)
	}
	return b.Bucket.Put(ctx, writes)
}

func failAll(n int, err error) []kv.Result {
	results := make([]kv.Result, n)
	for i := range results {
		results[i].Err = err
	}
	return results
}

func (b *batch) record(a *Attempt) ([]byte, error) {
	record := registration.Registration{
		Subscription:   a.Subscription,
		Owner:          b.Owner,
		Incarnation:    a.Incarnation,
		DeliverSubject: a.DeliverSubject,
		Term:           a.Term,
		Cause:          a.Cause,
		RegisteredAt:   time.Now().UTC(),
	}
	if a.HandedOver != nil {
		record.HandedOver = a.HandedOver.At
	}
	return record.Encode()
}

// readBack verifies what was written.
func (b *batch) readBack(ctx context.Context, written []int, timeout time.Duration) {
	if len(written) == 0 {
		return
	}
	expects := make([]verify.Expect, len(written))
	for n, i := range written {
		expects[n] = verify.Expect{Key: b.attempts[i].Key, Revision: b.results[i].Revision}
	}
	counts := map[verify.Outcome]int{}
	for n, found := range verify.ReadBack(ctx, b.Bucket, b.matcher, expects, timeout) {
		i := written[n]
		counts[found.Outcome]++
		switch r := &b.results[i]; found.Outcome {
		case verify.Verified:
			r.Verified = true
			r.Revision = max(r.Revision, found.Found.Revision)
		case verify.WrongOwner:
			r.Outcome = overwritten(found, r.Incarnation)
			r.Err = wrapVerify(r.Err, b.attempts[i].Subscription)
		default:
			r.Err, r.Known = wrapVerify(found.Err, b.attempts[i].Subscription), true
			r.Missing = found.Outcome == verify.Missing
		}
	}
	for outcome, n := range counts {
		b.Verifications.WithLabelValues(outcome.String()).Add(float64(n))
	}
}

// overwritten is the result where another owner's record was found in place of this instance's. One with a
// higher incarnation superseded it; any other was put there by hand or by a zombie.
func overwritten(found verify.Result, incarnation uint64) proxy.Outcome {
	record, err := registration.Decode(found.Found.Key, found.Found.Data)
	if err == nil && record.Incarnation > incarnation {
		return proxy.Outcome{Superseded: true, Revision: found.Found.Revision, Incarnation: record.Incarnation, By: record.Owner}
	}
	return proxy.Outcome{
		FoundIncarnation: record.Incarnation, Err: found.Err, Missing: true, Known: true,
		Revision: found.Found.Revision, Incarnation: incarnation,
	}
}

func wrapVerify(err error, s subscription.Subscription) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("verify %s: %w", s, err)
}
