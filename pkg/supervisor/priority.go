package supervisor

import (
	"slices"

	"github.com/exesdb/subproxy/pkg/registration"
)

// An attempt that an operator asked for, for one subscription, goes before all others and in a batch of its
// own, which waits for none of those under way: behind 100,000 others it would wait for seconds. How many
// there are is bounded by operators, who wait for each answer.

// admit queues an attempt that its breaker admitted.
func (d *dispatcher) admit(it *managed) {
	it.ready = true
	switch {
	case it.asked:
		d.priority = append(d.priority, it)
	case it.proxy.Attempt.Cause == registration.Takeover:
		d.unheld = append(d.unheld, it)
	default:
		d.ready = append(d.ready, it)
	}
}

// prioritize makes an item's attempts go first until no action waits for them any more. One that is queued
// already comes forward.
func (d *dispatcher) prioritize(it *managed) {
	if it.asked {
		return
	}
	it.asked = true
	if !it.ready {
		return
	}
	for _, queue := range []*[]*managed{&d.ready, &d.unheld} {
		if place := slices.Index(*queue, it); place >= 0 {
			*queue = slices.Delete(*queue, place, place+1)
			d.priority = append(d.priority, it)
		}
	}
}

// launchPriority hands over the attempts that go first.
func (d *dispatcher) launchPriority() {
	if len(d.priority) == 0 {
		return
	}
	items, attempts := d.attempts(&d.priority, batchSize)
	settings := d.settings.Load()
	d.flight += len(items)
	d.work.Go(func() {
		ctx, end := d.batches.Begin(d.ctx)
		results := d.register(ctx, items, attempts, settings)
		end()
		d.inbox.finished(results)
	})
}
