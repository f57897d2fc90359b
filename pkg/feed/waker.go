package feed

import (
	"context"
	"sync"
)

// waker wakes a loop that waits in calls which end only with a context. A caller of wake notes its reason
// elsewhere, before the call; the loop resets the waker before it looks there, so no reason is missed.
type waker struct {
	mu     sync.Mutex
	cancel context.CancelFunc
}

// reset returns a context that ends with the next wake, or with ctx.
func (w *waker) reset(ctx context.Context) context.Context {
	wait, cancel := context.WithCancel(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cancel != nil {
		w.cancel()
	}
	w.cancel = cancel
	return wait
}

func (w *waker) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cancel()
}
