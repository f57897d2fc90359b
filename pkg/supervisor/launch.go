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

// batchSize is how many attempts are made together. A batch is one pipelined write and one or more read-backs of up to
// kv.MaxGetLast records; several batches are in flight, so that one is written while another is read.
//
// What an operator asks for waits, in the server, for what is under way: with 500 in a batch 0.1 s, with 2000 0.4 s; a round
// of 100,000 takes as long with either (subproxy-bench scale).
const batchSize = 500

// takeoverBatch is how many attempts to claim what nobody holds are made together: all are written before the first is read
// back, since nobody serves them until they are written.
const takeoverBatch = 2000

// launch hands the admitted attempts and the releases to the registrar, in batches. It hands over no more than can be
// under way; what is admitted meanwhile gathers for the next. Else, while NATS does not answer, the retries that jitter has
// spread would each be a batch that waits for its turn, and then for its own time-out.
func (l *loop) launch(ctx context.Context) {
	settings := l.settings.Load()
	l.launchPriority(ctx)
	// Before what is not waited for: what is released pauses.
	for len(l.releases) > 0 && l.launched.Load() < maxBatches {
		releases := l.drained()
		if len(releases) == 0 {
			break
		}
		l.hand(ctx, len(releases), func(ctx context.Context) []result { return l.releaseRecords(ctx, releases) })
	}
	l.attempt(ctx, &l.unheld, takeoverBatch, settings)
	l.attempt(ctx, &l.ready, batchSize, settings)
	if len(l.releases) == 0 {
		l.releases = nil
	}
}

// attempt hands over a queue's attempts.
func (l *loop) attempt(ctx context.Context, queue *[]*managed, most int, settings *proxy.Settings) {
	for len(*queue) > 0 && l.launched.Load() < maxBatches {
		if items, attempts := l.attempts(queue, most); len(items) > 0 {
			l.hand(ctx, len(items), func(ctx context.Context) []result { return l.register(ctx, items, attempts, settings) })
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
func (l *loop) register(ctx context.Context, items []*managed, attempts []registrar.Attempt, settings *proxy.Settings) []result {
	verifyWithin := settings.VerificationTimeout
	if !settings.Verify {
		verifyWithin = 0
	}
	results := make([]result, len(items))
	ends := l.registrar.Register(ctx, attempts, verifyWithin)
	for i := range ends {
		results[i] = result{item: items[i], cause: attempts[i].Cause, Result: &ends[i]}
	}
	return results
}

// attempts takes up to most attempts off a queue, and tells whose they are. Items that were removed meanwhile are passed
// over.
func (l *loop) attempts(queue *[]*managed, most int) ([]*managed, []registrar.Attempt) {
	term, _ := l.inbox.leadership()
	prefix := delivery.DeliverPrefix + l.owner.ID + "."
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
			Revision: p.Revision, Incarnation: p.NextIncarnation(), Known: p.Known,
			HandedOver: (*registrar.HandedOver)(p.HandedOver), Cause: p.Cause, Term: term,
			OnWrite: onWrite(it.endpoint, p.HandedOver != nil),
		})
	}
	if len(*queue) == 0 {
		*queue = nil
	}
	return items, attempts
}

// drained takes out up to a batch of records to be deleted, of proxies that have nothing in hand any more.
func (l *loop) drained() []release {
	var ready []release
	waiting := l.releases[:0]
	for _, r := range l.releases {
		if len(ready) < batchSize && isClosed(r.drained) && (!r.offered || l.retired.Load()) {
			ready = append(ready, r)
			continue
		}
		waiting = append(waiting, r)
	}
	l.releases = waiting
	return ready
}

// hand runs a batch beside the loop, of which only so many are under way at once in the whole instance.
func (l *loop) hand(ctx context.Context, n int, batch func(context.Context) []result) {
	l.flight += n
	l.launched.Add(1)
	l.work.Go(func() {
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		ctx, end := l.batches.Begin(ctx)
		results := batch(ctx)
		end()
		<-l.slots
		l.launched.Add(-1) // before the loop is woken, which then hands over the next
		l.inbox.finished(results)
	})
}

// releaseRecords has records deleted that this instance holds no longer.
func (l *loop) releaseRecords(ctx context.Context, releases []release) []result {
	results, deletions := make([]result, len(releases)), make([]kv.Write, len(releases))
	for i := range releases {
		results[i] = result{release: &releases[i]}
		deletions[i] = releases[i].Write
	}
	failed := 0
	var sample error
	for i, err := range l.registrar.Release(ctx, deletions) {
		if err != nil {
			failed, sample, results[i].err = failed+1, err, err
		}
	}
	if failed > 0 {
		l.log.Warn("registrations could not be released; while this instance runs it is tried again, and later others take them", "subscriptions", failed, "error", sample)
	}
	return results
}

// releaseAgain is when a release that failed is tried again.
const releaseAgain = time.Second

// releaseUnreleased tries again to delete the records of what is no longer configured: they name an instance that lives, so that
// nobody else would take them.
func (l *loop) releaseUnreleased(now time.Time, wake *time.Time) {
	switch {
	case l.stopping.Load() || l.retired.Load():
		l.unreleased = nil
	case len(l.unreleased) == 0:
	case now.Before(l.releaseAt):
		sooner(wake, l.releaseAt)
	default:
		for _, w := range l.unreleased {
			if l.withKey(w.Key) == nil { // else it is configured anew
				w.Term = l.inbox.fence.Term()
				l.releases = append(l.releases, release{Write: w, since: now})
			}
		}
		l.unreleased = nil
	}
}

// tellRegistered counts the successes of each cause in a row.
func (l *loop) tellRegistered(results []result) {
	for from := 0; from < len(results); {
		cause, n, at := results[from].cause, 0, time.Time{}
		for ; from < len(results) && results[from].cause == cause; from++ {
			if r := &results[from]; r.release == nil && r.Err == nil && !r.Superseded {
				n, at = n+1, r.At
			}
		}
		if n > 0 {
			l.onReg(l.store, cause, n, at)
		}
	}
}

func (l *loop) count(it *managed, o *registrar.Result) {
	outcome := "registered"
	switch {
	case o.Superseded:
		outcome = "superseded"
	case o.Err != nil:
		outcome = "failed"
	default:
		took := o.At.Sub(it.proxy.CauseAt).Seconds()
		l.metrics.Latency.WithLabelValues(string(it.proxy.Cause)).Observe(took)
		if it.proxy.Cause == registration.Takeover {
			l.metrics.MoveSeconds.WithLabelValues("claim").Observe(took)
		}
	}
	l.metrics.Attempts.WithLabelValues(string(it.proxy.Cause), outcome).Inc()
}
