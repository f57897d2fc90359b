package testbed

import (
	"context"
	"time"
)

// poll is how often what tells nobody of its own accord is looked at.
const poll = 10 * time.Millisecond

// Until looks again and again until done says so, or ctx ends; then the error is its cause.
func Until(ctx context.Context, done func() bool) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
