package proxy

import (
	"context"
	"time"

	"github.com/exesdb/subproxy/pkg/registry"
)

// launch hands the admitted attempts and the releases to the registrar, in batches. It hands over no more than can be
// under way; what is admitted meanwhile gathers for the next. Else, while NATS does not answer, the retries that jitter has
// spread would each be a batch that waits for its turn, and then for its own time-out.
func (l *loop) launch(ctx context.Context) {
	settings := l.settings.Load()
	l.launchFirst(ctx)
	l.handOver(time.Now())
	// Before what is not waited for: what is released pauses.
	for len(l.releases) > 0 && l.launched.Load() < maxBatches {
		releases := l.drained()
		if len(releases) == 0 {
			break
		}
		l.hand(ctx, len(releases), func(ctx context.Context) []done { return l.deleteRecords(ctx, releases) })
	}
	l.attempt(ctx, &l.taken, takeoverBatch, settings)
	l.attempt(ctx, &l.ready, batchSize, settings)
	if len(l.releases) == 0 {
		l.releases = nil
	}
}

// attempt hands over a queue's attempts.
func (l *loop) attempt(ctx context.Context, queue *[]*item, most int, settings *Settings) {
	for len(*queue) > 0 && l.launched.Load() < maxBatches {
		if jobs := l.jobs(queue, most); len(jobs) > 0 {
			l.hand(ctx, len(jobs), func(ctx context.Context) []done { return l.registrar.register(ctx, jobs, settings) })
		}
	}
}

// jobs takes up to most attempts off a queue. Items that were removed meanwhile are passed over.
func (l *loop) jobs(queue *[]*item, most int) []job {
	term, _ := l.inbox.leadership()
	jobs := make([]job, 0, min(len(*queue), most))
	for len(*queue) > 0 && len(jobs) < most {
		it := (*queue)[0]
		*queue = (*queue)[1:]
		if it.removed {
			continue
		}
		p := &it.proxy
		it.ready = false
		jobs = append(jobs, job{
			item: it, inlet: it.inlet, subscription: p.Subscription, key: it.key, number: it.number, revision: p.Revision,
			incarnation: p.NextIncarnation(), informed: p.Known, handed: p.handed, cause: p.Cause, term: term,
		})
	}
	if len(*queue) == 0 {
		*queue = nil
	}
	return jobs
}

// drained takes out up to a batch of releases whose proxies have nothing in hand any more.
func (l *loop) drained() []release {
	var ready []release
	waiting := l.releases[:0]
	for _, r := range l.releases {
		if len(ready) < batchSize && isClosed(r.drained) {
			ready = append(ready, r)
			continue
		}
		waiting = append(waiting, r)
	}
	l.releases = waiting
	return ready
}

func isClosed(c <-chan struct{}) bool {
	if c == nil {
		return true
	}
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// hand runs a batch beside the loop, of which only so many are under way at once in the whole instance.
func (l *loop) hand(ctx context.Context, n int, batch func(context.Context) []done) {
	l.flight += n
	l.launched.Add(1)
	l.work.Go(func() {
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		ctx, end := l.batches.begin(ctx)
		ends := batch(ctx)
		end()
		<-l.slots
		l.launched.Add(-1) // before the loop is woken, which then hands over the next
		l.inbox.finished(ends)
	})
}

// deleteRecords deletes records that this instance holds no longer. A conflict may be its own write that was acknowledged late
// or never, so it looks once more; a record of somebody else stays.
func (l *loop) deleteRecords(ctx context.Context, releases []release) []done {
	ends, writes := make([]done, len(releases)), make([]registry.Write, len(releases))
	for i := range releases {
		ends[i] = done{item: releases[i].item, released: true}
		writes[i] = releases[i].Write
	}
	if l.retired.Load() {
		return ends
	}
	failed := 0
	var sample error
	var again []registry.Write
	var place []int // of those, in ends
	note := func(i int, err error) { failed, sample, ends[i].failed = failed+1, err, true }
	for i, result := range l.registrar.bucket.Put(ctx, writes) {
		switch result.Err {
		case nil:
		case registry.ErrConflict:
			found, ok, err := l.registrar.bucket.GetFromLeader(ctx, writes[i].Key)
			if err != nil {
				note(i, err)
			} else if ok && found.OwnedBy(l.registrar.needle) {
				w := registry.Write{Key: writes[i].Key, Revision: found.Revision, Incarnation: writes[i].Incarnation, Term: writes[i].Term}
				if record, err := found.Registration(); err == nil {
					w.Incarnation = max(w.Incarnation, record.Incarnation)
				}
				again, place = append(again, w), append(place, i)
			}
		default:
			note(i, result.Err)
		}
	}
	for n, result := range l.registrar.bucket.Put(ctx, again) {
		if result.Err != nil && result.Err != registry.ErrConflict {
			note(place[n], result.Err)
		}
	}
	if failed > 0 {
		l.log.Warn("registrations could not be released; while this instance runs it is tried again, and later others take them", "subscriptions", failed, "error", sample)
	}
	return ends
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
		for _, it := range l.unreleased {
			if l.withKey(it.key) == nil { // else it is configured anew
				l.release(it, it.proxy.Revision, nil, nil, now)
			}
		}
		l.unreleased = nil
	}
}

// tellRegistered counts the successes of each cause in a row.
func (l *loop) tellRegistered(ends []done) {
	for from := 0; from < len(ends); {
		cause, n, at := ends[from].cause, 0, time.Time{}
		for ; from < len(ends) && ends[from].cause == cause; from++ {
			if o := &ends[from].outcome; o.Err == nil && !o.Superseded && !ends[from].released {
				n, at = n+1, o.At
			}
		}
		if n > 0 {
			l.onReg(l.store, cause, n, at)
		}
	}
}

func (l *loop) count(it *item, o *Outcome) {
	outcome := "registered"
	switch {
	case o.Superseded:
		outcome = "superseded"
	case o.Err != nil:
		outcome = "failed"
	default:
		took := o.At.Sub(it.proxy.CauseAt).Seconds()
		l.metrics.Latency.WithLabelValues(string(it.proxy.Cause)).Observe(took)
		if it.proxy.Cause == registry.Takeover {
			l.metrics.MoveSeconds.WithLabelValues("claim").Observe(took)
		}
	}
	l.metrics.Attempts.WithLabelValues(string(it.proxy.Cause), outcome).Inc()
}
