package feed

import (
	"context"
	"sync"
)

// bell wakes a loop that waits in calls which end only with a context. Whoever rings says why elsewhere, before ringing;
// the loop arms the bell again before it looks there, so no reason is missed.
type bell struct {
	mu     sync.Mutex
	cancel context.CancelFunc
}

// arm returns a context that ends with the next ring, or with ctx.
func (b *bell) arm(ctx context.Context) context.Context {
	wait, cancel := context.WithCancel(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cancel != nil {
		b.cancel()
	}
	b.cancel = cancel
	return wait
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cancel()
}
