package supervisor

import (
	"context"
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/rebalance"
)

// drainLook is how often Drain looks whether all is gone, and drainQuiet how long nothing has moved when it
// gives up: a member that knows a subscription, and has several of lower rank before it, claims it only
// when its turn comes.
const (
	drainLook  = 10 * time.Millisecond
	drainQuiet = 2*rebalance.Turn + rebalance.Turn/2
)

// Drain waits until others hold what this instance held, after they were told that it drains (Share). It
// returns before where nobody is there to claim it, or none was claimed for a while, and when ctx ends.
func (s *Supervisor) Drain(ctx context.Context) {
	look := time.NewTicker(drainLook)
	defer look.Stop()
	held, at := -1, time.Now()
	for {
		n, err := s.remaining(ctx)
		if n != held {
			held, at = n, time.Now()
		}
		if n == 0 || err != nil || !s.sharedWithOthers() || time.Since(at) > drainQuiet {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// remaining is how many subscriptions this instance holds, or finishes with, or offers to another that has
// not registered them yet.
func (s *Supervisor) remaining(ctx context.Context) (n int, err error) {
	counts, err := gather(ctx, s, "", func(l *loop, reply func([]int)) {
		reply([]int{len(l.held("")) + len(l.dispatcher.releases) + l.transfers.Offered()})
	})
	for _, c := range counts {
		n += c
	}
	return n, err
}

// sharedWithOthers reports whether anybody else is there to claim any of what this instance holds.
func (s *Supervisor) sharedWithOthers() bool {
	m := s.members.Load()
	if m == nil {
		return false
	}
	return slices.ContainsFunc(s.loops.some(""), func(l *loop) bool { return m.Of(l.store).HasOthers() })
}
