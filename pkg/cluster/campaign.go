package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/exesdb/subproxy/pkg/registry"
)

// campaign is one Run: it does what the rules say. Its goroutine owns what is not said to be shared.
type campaign struct {
	*Election
	ctx   context.Context
	rules candidacy
	work  sync.WaitGroup // requests and Lead

	mu     sync.Mutex
	inputs []input       // guarded by mu: what the feed showed
	news   chan struct{} // says that there are inputs; holds one

	answers  chan input // of the request; holds the one there can be
	ensured  chan error // holds the one there can be
	ensuring bool
	returned chan struct{} // Lead returned; holds one
	asks     chan *ask

	lease   *Lease // nil while not leading
	end     context.CancelCauseFunc
	waiting []*ask // their renewal is still to be sent
	sent    []*ask // their renewal is on its way
	gaveUp  bool   // resigning was not acknowledged
	failing string // the failure logged last, in a row
	timer   *time.Timer
}

// ask is a leader's wish for a renewal.
type ask struct {
	input
	lease *Lease
	done  chan error // holds the one answer
}

func (c *campaign) run() error {
	c.timer = time.NewTimer(0)
	defer c.timer.Stop()
	defer c.work.Wait()
	defer c.leader.Store(nil)
	stop := c.ctx.Done()
	for done := false; !done; {
		select {
		case <-stop:
			stop = nil
			done = c.step(input{kind: stopped})
		case <-c.timer.C:
			done = c.step(input{kind: due})
		case <-c.news:
			for _, in := range c.take() {
				done = c.step(in)
			}
		case in := <-c.answers:
			done = c.step(in)
		case <-c.returned:
			done = c.step(input{kind: returned})
		case err := <-c.ensured:
			c.ensuring = false
			c.report(err)
		case a := <-c.asks:
			if a.lease != c.lease {
				a.done <- ErrDeposed
				break
			}
			c.waiting = append(c.waiting, a)
			done = c.step(a.input)
		}
	}
	if c.gaveUp {
		return fmt.Errorf("resign as leader of store %s: not acknowledged within %s", c.cfg.Store, resignWait)
	}
	return nil
}

// heard implements watcher.
func (c *campaign) heard(in input) {
	c.mu.Lock()
	c.inputs = append(c.inputs, in)
	c.mu.Unlock()
	select {
	case c.news <- struct{}{}:
	default:
	}
}

func (c *campaign) take() []input {
	c.mu.Lock()
	defer c.mu.Unlock()
	inputs := c.inputs
	c.inputs = nil
	return inputs
}

// step lets the rules decide, and does what they say.
func (c *campaign) step(in input) (done bool) {
	fx := c.rules.Step(in, time.Now())
	c.report(fx.Failed)
	if in.kind == answered {
		if in.err == nil {
			c.failing = ""
		}
		if !fx.Renewed { // the next renewal is for them too
			c.waiting, c.sent = append(c.sent, c.waiting...), nil
		}
	}
	if fx.Deposed || fx.Resigned {
		c.over(fx.Deposed)
	}
	if fx.Elected {
		c.begin()
	}
	c.publish()
	if fx.Renewed {
		for _, a := range c.sent {
			a.done <- nil
		}
		c.sent = nil
	}
	switch {
	case fx.Read:
		c.request(func(ctx context.Context) (in input) {
			in.entry, in.found, in.err = c.cfg.Follower.bucket.GetFromLeader(ctx, LeaderKey(c.cfg.Store))
			return in
		})
	case fx.Write != nil:
		c.sent, c.waiting = c.waiting, nil
		c.request(func(ctx context.Context) input {
			r := c.cfg.Follower.bucket.Put(ctx, []registry.Write{*fx.Write})[0]
			return input{revision: r.Revision, err: r.Err}
		})
	}
	if fx.Ensure && !c.ensuring && c.cfg.Ensure != nil {
		c.ensure()
	}
	c.timer.Stop()
	if !fx.Next.IsZero() {
		c.timer.Reset(time.Until(fx.Next))
	}
	return fx.Done
}

// request makes the one request at a time. It gets half the grace: one that was sent while JetStream was away must be
// over, and be sent again, before the others have waited out theirs. It ends by time and not with Run, which needs to
// know what became of a write.
func (c *campaign) request(do func(context.Context) input) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), max(c.cfg.Grace/2, minRetry))
	c.work.Go(func() {
		defer cancel()
		in := do(ctx)
		in.kind = answered
		c.answers <- in
	})
}

// ensure is beside the requests: while it waits for a bucket that has no leader, renewals go on.
func (c *campaign) ensure() {
	c.ensuring = true
	ctx, cancel := context.WithTimeout(c.ctx, ensureWait)
	c.work.Go(func() {
		defer cancel()
		err := c.cfg.Ensure(ctx)
		if err == nil {
			c.cfg.Follower.feed.Poke()
		}
		c.ensured <- err
	})
}

func (c *campaign) begin() {
	ctx, end := context.WithCancelCause(c.ctx)
	l := &Lease{previous: c.rules.before, vacancy: c.rules.vacancy, asks: c.asks, ended: make(chan struct{})}
	held := c.rules.held
	l.held.Store(&held)
	c.lease, c.end = l, end
	c.log.Info("elected leader of the store", "term", l.Term(), "vacancy", l.vacancy, "previous_leader", l.previous.Leader)
	c.work.Go(func() {
		defer end(nil)
		c.cfg.Lead(ctx, l)
		c.returned <- struct{}{}
	})
}

// over ends the leadership, and tells all who wait for a renewal.
func (c *campaign) over(deposed bool) {
	unknown := c.rules.view.is == unread || c.rules.ours()
	c.gaveUp = c.rules.stopping && !deposed && unknown
	if c.lease != nil { // nil where it was won after Run's context had ended
		if deposed {
			c.end(ErrDeposed)
			c.log.Warn("deposed as leader of the store", "term", c.lease.Term(), "by", c.rules.view.record.Leader, "by_term", c.rules.view.record.Term)
		} else {
			c.log.Info("resigned as leader of the store", "term", c.lease.Term(), "acknowledged", !unknown)
		}
		close(c.lease.ended)
		c.lease = nil
	}
	for _, a := range append(c.sent, c.waiting...) {
		a.done <- ErrDeposed
	}
	c.sent, c.waiting = nil, nil
}

// publish makes what is known now visible to other goroutines.
func (c *campaign) publish() {
	var known *Record
	switch r := &c.rules; {
	case r.leading:
		held := r.held
		known = &held
		if c.lease != nil {
			c.lease.held.Store(&held)
		}
	case r.view.is == leased:
		record := r.view.record
		known = &record
	}
	c.leader.Store(known)
}

// report logs a failure once in a row.
func (c *campaign) report(err error) {
	if err == nil {
		return
	}
	level := slog.LevelDebug
	if c.failing != err.Error() {
		c.failing, level = err.Error(), slog.LevelWarn
	}
	c.log.Log(c.ctx, level, "the leader's lease could not be read or written", "leading", c.rules.leading, "error", err)
}
