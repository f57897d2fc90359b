package cluster

import (
	"context"
	"fmt"
	"time"
)

// campaign is one Run: it does what the rules say. Its goroutine owns what is not said to be shared.
type campaign struct {
	*Election
	*clerk
	rules candidacy

	returned chan struct{} // Lead returned; holds one
	asks     chan *ask

	lease   *Lease // nil while not leading
	end     context.CancelCauseFunc
	waiting []*ask // their renewal is still to be sent
	sent    []*ask // their renewal is on its way
	gaveUp  bool   // resigning was not acknowledged
}

const leaseFailed = "the leader's lease could not be read or written"

// ask is a leader's wish for a renewal.
type ask struct {
	input
	lease *Lease
	done  chan error // holds the one answer
}

func (c *campaign) run() error {
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
		case err := <-c.remade:
			c.remaking = false
			c.report(leaseFailed, err, "leading", c.rules.leading)
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

// step lets the rules decide, and does what they say.
func (c *campaign) step(in input) (done bool) {
	if c.lease != nil {
		if witness := c.lease.witness.Swap(nil); witness != nil {
			c.rules.mine.Witness = *witness
		}
	}
	fx := c.rules.Step(in, time.Now())
	c.report(leaseFailed, fx.Failed, "leading", c.rules.leading)
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
		c.read(LeaderKey(c.cfg.Store))
	case fx.Write != nil:
		c.sent, c.waiting = c.waiting, nil
		c.write(*fx.Write)
	}
	if fx.Ensure {
		c.ensure()
	}
	c.wake(fx.Next)
	return fx.Done
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
