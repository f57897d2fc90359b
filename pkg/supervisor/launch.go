package supervisor

import (
	"context"
	"strconv"
	"time"

	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registrar"
	"github.com/exesdb/subproxy/pkg/registration"
)

// batchSize is how many attempts are made together. A batch is one pipelined write and one or more
// read-backs of up to kv.MaxGetLast records; several batches are in flight, so that one is written while
// another is read.
//
// What an operator asks for waits, in the server, for what is under way: with 500 in a batch 0.1 s, with
// 2000 0.4 s; a round of 100,000 takes as long with either (subproxy-bench scale).
const batchSize = 500

// takeoverBatch is how many attempts to claim what nobody holds are made together: all are written before
// the first is read back, since nobody serves them until they are written.
const takeoverBatch = 2000

// launch hands the admitted attempts and the releases to the registrar, in batches. It hands over no more
// than can be under way; what is admitted meanwhile gathers for the next. Else, while NATS does not answer,
// the retries that jitter has spread would each be a batch that waits for its turn, and then for its own
// time-out.
func (d *dispatcher) launch() {
	settings := d.settings.Load()
	ctx := d.ctx
	d.launchPriority()
	// Before what is not waited for: what is released pauses.
	for len(d.releases) > 0 && d.launched.Load() < maxBatches {
		releases := d.drained()
		if len(releases) == 0 {
			break
		}
		d.dispatch(ctx, len(releases), func(ctx context.Context) []result { return d.releaseRecords(ctx, releases) })
	}
	d.attempt(ctx, &d.unheld, takeoverBatch, settings)
	d.attempt(ctx, &d.ready, batchSize, settings)
	if len(d.releases) == 0 {
		d.releases = nil
	}
}

// launchFull launches where a batch is full.
func (d *dispatcher) launchFull() {
	if len(d.ready) >= batchSize || len(d.unheld) >= takeoverBatch {
		d.launch()
	}
}

// idle reports whether nothing is under way, and no record is to be released.
func (d *dispatcher) idle() bool {
	return d.flight == 0 && len(d.releases) == 0 && len(d.unreleased) == 0
}

// attempt hands over a queue's attempts.
func (d *dispatcher) attempt(ctx context.Context, queue *[]*managed, most int, settings *proxy.Settings) {
	for len(*queue) > 0 && d.launched.Load() < maxBatches {
		if items, attempts := d.attempts(queue, most); len(items) > 0 {
			d.dispatch(ctx, len(items), func(ctx context.Context) []result { return d.register(ctx, items, attempts, settings) })
		}
	}
}

// result is the end of an attempt, or of a release.
type result struct {
	item    *managed // of an attempt
	release *release // nil: it was an attempt
	err     error    // of a release
	cause   registration.Cause
	*registrar.Result
}

// register has attempts made, of the items at the same indexes.
func (d *dispatcher) register(ctx context.Context, items []*managed, attempts []registrar.Attempt, settings *proxy.Settings) []result {
	verifyWithin := settings.VerificationTimeout
	if !settings.Verify {
		verifyWithin = 0
	}
	results := make([]result, len(items))
	ends := d.registrar.Register(ctx, attempts, verifyWithin)
	for i := range ends {
		results[i] = result{item: items[i], cause: attempts[i].Cause, Result: &ends[i]}
	}
	return results
}

// attempts takes up to most attempts off a queue, and tells whose they are. Items that were removed
// meanwhile are passed over.
func (d *dispatcher) attempts(queue *[]*managed, most int) ([]*managed, []registrar.Attempt) {
	term, _ := d.inbox.leadership()
	prefix := delivery.DeliverPrefix + d.owner.ID + "."
	items := make([]*managed, 0, min(len(*queue), most))
	attempts := make([]registrar.Attempt, 0, cap(items))
	for len(*queue) > 0 && len(items) < most {
		it := (*queue)[0]
		*queue = (*queue)[1:]
		if it.removed {
			continue
		}
		p := &it.proxy
		it.ready = false
		items = append(items, it)
		attempts = append(attempts, registrar.Attempt{
			Subscription: p.Subscription, Key: it.key, DeliverSubject: prefix + strconv.FormatUint(it.number, 10),
			Revision: p.Record.Revision, Incarnation: p.Record.NextIncarnation(), Known: p.Record.Known,
			HandedOver: p.HandedOver, Cause: p.Attempt.Cause, Term: term,
			OnWrite: onWrite(it.endpoint, p.HandedOver != nil),
		})
	}
	if len(*queue) == 0 {
		*queue = nil
	}
	return items, attempts
}

// drained takes out up to a batch of records to be deleted, of proxies that have nothing in hand any more.
func (d *dispatcher) drained() []release {
	var ready []release
	waiting := d.releases[:0]
	for _, r := range d.releases {
		if len(ready) < batchSize && isClosed(r.drained) && (!r.offered || d.retired.Load()) {
			ready = append(ready, r)
			continue
		}
		waiting = append(waiting, r)
	}
	d.releases = waiting
	return ready
}

// dispatch runs a batch beside the loop, of which only so many are under way at once in the whole instance.
func (d *dispatcher) dispatch(ctx context.Context, n int, batch func(context.Context) []result) {
	d.flight += n
	d.launched.Add(1)
	d.work.Go(func() {
		select {
		case d.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		ctx, end := d.batches.Begin(ctx)
		results := batch(ctx)
		end()
		<-d.slots
		d.launched.Add(-1) // before the loop is woken, which then hands over the next
		d.inbox.finished(results)
	})
}

// releaseRecords has records deleted that this instance holds no longer.
func (d *dispatcher) releaseRecords(ctx context.Context, releases []release) []result {
	results, deletions := make([]result, len(releases)), make([]kv.Write, len(releases))
	for i := range releases {
		results[i] = result{release: &releases[i]}
		deletions[i] = releases[i].Write
	}
	failed := 0
	var sample error
	for i, err := range d.registrar.Release(ctx, deletions) {
		if err != nil {
			failed, sample, results[i].err = failed+1, err, err
		}
	}
	if failed > 0 {
		d.log.Warn("registrations could not be released; while this instance runs it is tried again, and later others take them", "subscriptions", failed, "error", sample)
	}
	return results
}

// releaseAgain is when a release that failed is tried again.
const releaseAgain = time.Second

// releaseUnreleased tries again to delete the records of what is no longer configured: they name an
// instance that lives, so that nobody else would take them.
func (d *dispatcher) releaseUnreleased(now time.Time, wake *time.Time) {
	switch {
	case d.stopping.Load() || d.retired.Load():
		d.unreleased = nil
	case len(d.unreleased) == 0:
	case now.Before(d.releaseAt):
		sooner(wake, d.releaseAt)
	default:
		for _, w := range d.unreleased {
			if d.withKey(w.Key) == nil { // else it is configured anew
				w.Term = d.inbox.fence.Term()
				d.releases = append(d.releases, release{Write: w, since: now})
			}
		}
		d.unreleased = nil
	}
}

// tellRegistered counts the successes of each cause in a row.
func (d *dispatcher) tellRegistered(results []result) {
	for from := 0; from < len(results); {
		cause, n, at := results[from].cause, 0, time.Time{}
		for ; from < len(results) && results[from].cause == cause; from++ {
			if r := &results[from]; r.release == nil && r.Err == nil && !r.Superseded {
				n, at = n+1, r.At
			}
		}
		if n > 0 {
			d.onReg(d.store, cause, n, at)
		}
	}
}

func (d *dispatcher) count(it *managed, o *registrar.Result) {
	outcome := "registered"
	switch {
	case o.Superseded:
		outcome = "superseded"
	case o.Err != nil:
		outcome = "failed"
	default:
		took := o.At.Sub(it.proxy.Attempt.CauseAt).Seconds()
		d.metrics.Latency.WithLabelValues(string(it.proxy.Attempt.Cause)).Observe(took)
		if it.proxy.Attempt.Cause == registration.Takeover {
			d.metrics.MoveSeconds.WithLabelValues("claim").Observe(took)
		}
	}
	d.metrics.Attempts.WithLabelValues(string(it.proxy.Attempt.Cause), outcome).Inc()
}
