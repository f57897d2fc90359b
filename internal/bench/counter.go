package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// counter counts events as they arrive.
type counter struct {
	want int64
	n    atomic.Int64
	all  chan struct{} // closed by the event that completes it
}

func newCounter(want int) *counter { return &counter{want: int64(want), all: make(chan struct{})} }

func (t *counter) one([]byte) {
	if t.n.Add(1) == t.want {
		close(t.all)
	}
}

// stuckAfter is how long nothing arrives before a measurement is given up.
const stuckAfter = 15 * time.Second

// wait returns when all have arrived.
func (t *counter) wait(ctx context.Context) error {
	last, since := int64(-1), time.Now()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case <-t.all:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
		}
		if n := t.n.Load(); n != last {
			last, since = n, time.Now()
		} else if time.Since(since) > stuckAfter {
			return fmt.Errorf("%d of %d events arrived, and none for %v", n, t.want, stuckAfter)
		}
	}
}

// surplus is how many arrived more than were wanted.
func (t *counter) surplus() int64 { return max(t.n.Load()-t.want, 0) }
