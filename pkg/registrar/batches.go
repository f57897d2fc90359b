package registrar

import (
	"context"
	"sync"
	"time"
)

// Batches are those under way for one store, each with a way to give it up. It is safe for concurrent use;
// the zero value has none.
//
// When a cluster event comes while batches are under way and none has ended for half the time-out, they
// wait for a leader that is gone. They are given up then, so that the event can act on the one that is
// there now: a RAFT leader that was killed takes its unanswered requests with it, and the advisory of the
// next one must not wait for their time-outs.
type Batches struct {
	mu       sync.Mutex
	cancels  map[*context.CancelFunc]struct{}
	progress time.Time // when one began with none under way, or ended
}

// Begin notes a batch, which runs with the context returned; end forgets it.
func (b *Batches) Begin(ctx context.Context) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cancels == nil {
		b.cancels = map[*context.CancelFunc]struct{}{}
	}
	if len(b.cancels) == 0 {
		b.progress = time.Now()
	}
	b.cancels[&cancel] = struct{}{}
	return ctx, func() {
		b.mu.Lock()
		delete(b.cancels, &cancel)
		b.progress = time.Now()
		b.mu.Unlock()
		cancel()
	}
}

// GiveUp cancels what is under way if none of it has ended for patience, and returns when to ask again.
func (b *Batches) GiveUp(now time.Time, patience time.Duration) (next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if deadline := b.progress.Add(patience); deadline.After(now) {
		return deadline
	}
	for cancel := range b.cancels {
		(*cancel)()
	}
	return now.Add(patience)
}
