package proxy

import (
	"context"
	"sync"
	"time"
)

// batches are the batches that a loop has under way, each with a way to give it up. It is safe for concurrent use.
//
// When a cluster event comes while batches are under way and none has ended for half the time-out, they wait for a leader
// that is gone. They are given up then, so that the event can act on the one that is there now: a RAFT leader that was
// killed takes its unanswered requests with it, and the advisory of the next one must not wait for their time-outs.
type batches struct {
	mu       sync.Mutex
	under    map[*context.CancelFunc]struct{}
	progress time.Time // when one began with none under way, or ended
}

// begin notes a batch; end forgets it.
func (b *batches) begin(ctx context.Context) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.under == nil {
		b.under = map[*context.CancelFunc]struct{}{}
	}
	if len(b.under) == 0 {
		b.progress = time.Now()
	}
	b.under[&cancel] = struct{}{}
	return ctx, func() {
		b.mu.Lock()
		delete(b.under, &cancel)
		b.progress = time.Now()
		b.mu.Unlock()
		cancel()
	}
}

// giveUp cancels what is under way if none of it has ended for patience, and returns when to ask again.
func (b *batches) giveUp(now time.Time, patience time.Duration) (next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if deadline := b.progress.Add(patience); deadline.After(now) {
		return deadline
	}
	for cancel := range b.under {
		(*cancel)()
	}
	return now.Add(patience)
}
