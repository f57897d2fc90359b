package supervisor

import (
	"context"
	"slices"

	"github.com/exesdb/subproxy/pkg/registration"
)

// An attempt that an operator asked for, for one subscription, goes before all others and in a batch of its own, which waits for
// none of those under way: behind 100,000 others it would wait for seconds. How many there are is bounded by operators, who
// wait for each answer.

// admit queues an attempt that its breaker admitted.
func (l *loop) admit(it *item) {
	it.ready = true
	switch {
	case it.asked:
		l.first = append(l.first, it)
	case it.proxy.Cause == registration.Takeover:
		l.taken = append(l.taken, it)
	default:
		l.ready = append(l.ready, it)
	}
}

// prefer makes an item's attempts go first until no action waits for them any more. One that is queued already comes forward.
func (l *loop) prefer(it *item) {
	if it.asked {
		return
	}
	it.asked = true
	if !it.ready {
		return
	}
	for _, queue := range []*[]*item{&l.ready, &l.taken} {
		if place := slices.Index(*queue, it); place >= 0 {
			*queue = slices.Delete(*queue, place, place+1)
			l.first = append(l.first, it)
		}
	}
}

// launchFirst hands over the attempts that go first.
func (l *loop) launchFirst(ctx context.Context) {
	if len(l.first) == 0 {
		return
	}
	items, attempts := l.attempts(&l.first, batchSize)
	settings := l.settings.Load()
	l.flight += len(items)
	l.work.Go(func() {
		ctx, end := l.batches.Begin(ctx)
		results := l.register(ctx, items, attempts, settings)
		end()
		l.inbox.finished(results)
	})
}
