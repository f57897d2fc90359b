package proxy

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/exesdb/subproxy/pkg/health"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/registry"
	"github.com/exesdb/subproxy/pkg/subscription"
	"github.com/exesdb/subproxy/pkg/verify"
)

// Bucket is where attempts are made; *registry.Registry is one.
type Bucket interface {
	verify.Bucket
	Put(ctx context.Context, writes []registry.Write) []registry.WriteResult
}

// DeliverPrefix begins every deliver subject: <instance id>.<n> follows.
const DeliverPrefix = "exesdb.proxy.deliver."

// batchSize is how many attempts are made together. A batch is one pipelined write and one or more read-backs of up to
// registry.MaxGetLast records; several batches are in flight, so that one is written while another is read.
//
// What an operator asks for waits, in the server, for what is under way: with 500 in a batch 0.1 s, with 2000 0.4 s; a round
// of 100,000 takes as long with either (subproxy-bench scale).
const batchSize = 500

// takeoverBatch is how many attempts to take what nobody holds are made together: all are written before the first is read back, since
// nobody serves them until they are written.
const takeoverBatch = 2000

// maxConflicts is how many races one attempt may lose before it counts as failed.
const maxConflicts = 4

// job is one attempt to be made, as its proxy asked for it.
type job struct {
	item         *item
	inlet        *inlet // where events come that are sent by the record; nil: nowhere
	subscription subscription.Subscription
	key          string
	number       uint64 // of the deliver subject
	revision     uint64 // to be conditional on
	incarnation  uint64
	informed     bool   // the record at revision was seen, or it is known that there is none
	handed       *place // nil: its holder did not hand it over
	cause        registry.Cause
	term         uint64
	by           registry.Owner // of a conflict lost
}

// done is a job's end.
type done struct {
	item     *item
	released bool // it was a release, not an attempt
	failed   bool // the release failed
	cause    registry.Cause
	term     uint64 // highest known, that of a record found in the way included
	outcome  Outcome
}

// registrar performs attempts in batches. It is safe for concurrent use.
type registrar struct {
	bucket  Bucket
	owner   registry.Owner
	needle  registry.OwnerNeedle
	metrics *health.Metrics
	// ensure opens the bucket again where a write found no stream; nil where it can't be.
	ensure func(context.Context) error
	// retired is set once another run of this name took over: nothing is written from then on.
	retired *atomic.Bool
	members *atomic.Pointer[placement.Members] // nil inside: subscriptions are not shared
}

// errRetired ends attempts that were not yet written when this run was superseded.
var errRetired = errors.New("another run of this instance's name took over")

// register makes the attempts: write, resolve the races lost, read back.
func (r *registrar) register(ctx context.Context, jobs []job, s *Settings) []done {
	ends := make([]done, len(jobs))
	for i := range jobs {
		ends[i].item, ends[i].cause = jobs[i].item, jobs[i].cause
	}
	written := r.write(ctx, jobs, ends, s)
	if s.Verify {
		r.readBack(ctx, jobs, written, ends, s.VerificationTimeout)
	}
	now := time.Now()
	for i := range ends {
		ends[i].outcome.At, ends[i].term = now, jobs[i].term
	}
	return ends
}

// write writes every job's record and returns the indexes of those that are in the bucket; the others' ends are set.
func (r *registrar) write(ctx context.Context, jobs []job, ends []done, s *Settings) (written []int) {
	open := make([]int, len(jobs))
	for i := range open {
		open[i] = i
	}
	written = make([]int, 0, len(jobs))
	defer func() {
		for i := range ends {
			if o := &ends[i].outcome; o.Err != nil {
				o.Revision, o.Incarnation, o.Informed = max(o.Revision, jobs[i].revision), jobs[i].incarnation, jobs[i].informed
			}
		}
	}()
	for races := 0; len(open) > 0; races++ {
		var lost []int
		results := r.put(ctx, jobs, open)
		for n, i := range open {
			switch err := results[n].Err; {
			case err == nil:
				ends[i].outcome.Revision, ends[i].outcome.Incarnation = results[n].Revision, jobs[i].incarnation
				ends[i].outcome.Written = true
				written = append(written, i)
			case errors.Is(err, registry.ErrConflict) && races < maxConflicts:
				lost = append(lost, i)
			default:
				ends[i].outcome.Err = fmt.Errorf("register %s: %w", jobs[i].subscription, err)
			}
		}
		open = r.settle(ctx, jobs, lost, ends)
	}
	return written
}

// put writes the open jobs' records. Where the bucket turns out to be gone it is made anew and they are written again; what
// they were conditional on is gone with it, and the races that they lose then are settled.
func (r *registrar) put(ctx context.Context, jobs []job, open []int) []registry.WriteResult {
	writes := make([]registry.Write, len(open))
	for n, i := range open {
		if j := &jobs[i]; j.handed != nil && j.handed.revision != j.revision { // somebody may have had it in between, and got further
			j.handed = nil
			j.inlet.forget()
		}
		data, err := r.record(&jobs[i])
		if err != nil {
			return failAll(len(open), err)
		}
		writes[n] = registry.Write{Key: jobs[i].key, Data: data, Revision: jobs[i].revision}
		if in := jobs[i].inlet; in != nil {
			in.incarnation.Store(jobs[i].incarnation) // an emitter may send before the write is acknowledged here
		}
	}
	if r.retired.Load() {
		return failAll(len(open), errRetired)
	}
	results := r.bucket.Put(ctx, writes)
	if r.ensure == nil || !errors.Is(results[0].Err, registry.ErrNoStream) {
		return results
	}
	if err := r.ensure(ctx); err != nil {
		return failAll(len(open), err)
	}
	if r.retired.Load() { // it may have taken seconds
		return failAll(len(open), errRetired)
	}
	return r.bucket.Put(ctx, writes)
}

func failAll(n int, err error) []registry.WriteResult {
	results := make([]registry.WriteResult, n)
	for i := range results {
		results[i].Err = err
	}
	return results
}

func (r *registrar) record(j *job) ([]byte, error) {
	record := registry.Registration{
		Subscription:   j.subscription,
		Owner:          r.owner,
		Incarnation:    j.incarnation,
		DeliverSubject: DeliverPrefix + r.owner.ID + "." + strconv.FormatUint(j.number, 10),
		Term:           j.term,
		Cause:          j.cause,
		RegisteredAt:   time.Now().UTC(),
	}
	if j.handed != nil {
		record.HandedOver = j.handed.Place
	}
	return record.Encode()
}

// settle reads who won each lost race, and returns the jobs to write again.
func (r *registrar) settle(ctx context.Context, jobs []job, lost []int, ends []done) (again []int) {
	for _, found := range r.winners(ctx, jobs, lost) {
		i, j := found.index, &jobs[found.index]
		if found.err != nil {
			ends[i].outcome.Err = fmt.Errorf("register %s: %w: %w", j.subscription, registry.ErrConflict, found.err)
			continue
		}
		if found.ok && found.entry.Revision == j.revision {
			// The record that the write was conditional on is still there: the leader has proposed another write and not
			// committed it. What is there is not that write, even where it is this instance's own; without a quorum the
			// races run out.
			again = append(again, i)
			continue
		}
		v, next := resolve(found.entry, found.ok, r.owner, r.members.Load(), j)
		switch v {
		case standAside:
			ends[i].outcome = Outcome{Superseded: true, Revision: next.revision, Incarnation: next.incarnation, By: next.by}
			j.term = max(j.term, next.term)
		default:
			j.revision, j.incarnation, j.informed = next.revision, next.incarnation, true
			j.term = max(j.term, next.term)
			again = append(again, i)
		}
	}
	return again
}

type winner struct {
	index int
	entry registry.Entry
	ok    bool
	err   error
}

// winnersWait bounds one request to a replica that may hang; the leader is asked instead.
const winnersWait = 500 * time.Millisecond

// winners reads what the bucket holds for the jobs: many at once from any replica, and from the leader what a replica
// shows at a revision that the conflict has already ruled out.
func (r *registrar) winners(ctx context.Context, jobs []job, lost []int) []winner {
	found := make([]winner, len(lost))
	for from := 0; from < len(lost) && len(lost) > 1; from += registry.MaxGetLast {
		part := lost[from:min(from+registry.MaxGetLast, len(lost))]
		keys, index := make([]string, len(part)), make(map[string]int, len(part))
		for n, i := range part {
			keys[n], index[jobs[i].key] = jobs[i].key, from+n
		}
		// What fails here is read from the leader below.
		ctx, cancel := context.WithTimeout(ctx, winnersWait)
		_ = r.bucket.GetLast(ctx, keys, func(e registry.Entry) {
			if n, ok := index[e.Key]; ok {
				found[n].entry, found[n].ok = e, true
			}
		})
		cancel()
	}
	// A leader that does not answer for one is not asked for the others: each would wait for a time-out of its own.
	var away error
	for n, i := range lost {
		w := &found[n]
		w.index = i
		if w.ok && w.entry.Revision > jobs[i].revision {
			continue
		}
		if w.err = away; away == nil {
			w.entry, w.ok, w.err = r.bucket.GetFromLeader(ctx, jobs[i].key)
			away = w.err
		}
	}
	return found
}

// readBack verifies what was written.
func (r *registrar) readBack(ctx context.Context, jobs []job, written []int, ends []done, timeout time.Duration) {
	if len(written) == 0 {
		return
	}
	expects := make([]verify.Expect, len(written))
	for n, i := range written {
		expects[n] = verify.Expect{Key: jobs[i].key, Revision: ends[i].outcome.Revision}
	}
	counts := map[verify.Outcome]int{}
	for n, result := range verify.ReadBack(ctx, r.bucket, r.needle, expects, timeout) {
		i := written[n]
		counts[result.Outcome]++
		switch o := &ends[i].outcome; result.Outcome {
		case verify.Verified:
			o.Verified = true
			o.Revision = max(o.Revision, result.Found.Revision)
		case verify.WrongOwner:
			*o = outranked(result, o.Incarnation) // no longer written: another wrote over it
			o.Err = wrapVerify(o.Err, jobs[i].subscription)
		default:
			o.Err, o.Informed = wrapVerify(result.Err, jobs[i].subscription), true
			o.Gone = result.Outcome == verify.Missing
		}
	}
	for outcome, n := range counts {
		r.metrics.Verifications.WithLabelValues(outcome.String()).Add(float64(n))
	}
}

// outranked says what another owner's record means, found where this instance's should be: one with a higher incarnation
// superseded it, any other was put there by hand or by a zombie.
func outranked(result verify.Result, incarnation uint64) Outcome {
	record, err := result.Found.Registration()
	if err == nil && record.Incarnation > incarnation {
		return Outcome{Superseded: true, Revision: result.Found.Revision, Incarnation: record.Incarnation, By: record.Owner}
	}
	return Outcome{Rival: record.Incarnation, Err: result.Err, Gone: true, Informed: true, Revision: result.Found.Revision, Incarnation: incarnation}
}

func wrapVerify(err error, s subscription.Subscription) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("verify %s: %w", s, err)
}
