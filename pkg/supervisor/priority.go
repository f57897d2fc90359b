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
func (l *loop) admit(it *managed) {
	it.ready = true
	switch {
	case it.asked:
		l.priority = append(l.priority, it)
	case it.proxy.Cause == registration.Takeover:
		l.unheld = append(l.unheld, it)
	default:
		l.ready = append(l.ready, it)
	}
}

// prioritize makes an item's attempts go first until no action waits for them any more. One that is queued already comes forward.
func (l *loop) prioritize(it *managed) {
	if it.asked {
		return
	}
	it.asked = true
	if !it.ready {
		return
	}
	for _, queue := range []*[]*managed{&l.ready, &l.unheld} {
		if place := slices.Index(*queue, it); place >= 0 {
			*queue = slices.Delete(*queue, place, place+1)
			l.priority = append(l.priority, it)
		}
	}
}

// launchPriority hands over the attempts that go first.
func (l *loop) launchPriority(ctx context.Context) {
	if len(l.priority) == 0 {
		return
	}
	items, attempts := l.attempts(&l.priority, batchSize)
	settings := l.settings.Load()
	l.flight += len(items)
	l.work.Go(func() {
		ctx, end := l.batches.Begin(ctx)
		results := l.register(ctx, items, attempts, settings)
		end()
		l.inbox.finished(results)
	})
}
