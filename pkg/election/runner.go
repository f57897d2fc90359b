package election

import (
	"context"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/lease"
)

// runner is one Run of an election: it does what the rules say. Its goroutine owns what is not said to be shared.
type runner struct {
	*Election
	client *lease.Client
	rules  rules

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
	update
	lease *Lease
	done  chan error // holds the one answer
}

func (c *runner) run() error {
	defer c.client.Timer.Stop()
	defer c.client.Work.Wait()
	defer c.leader.Store(nil)
	stop := c.client.Context.Done()
	for done := false; !done; {
		select {
		case <-stop:
			stop = nil
			done = c.decide(c.rules.stop)
		case <-c.client.Timer.C:
			done = c.step(lease.Input{Kind: lease.TimerDue})
		case <-c.client.News:
			for _, in := range c.client.Inputs() {
				done = c.step(in)
			}
		case in := <-c.client.Answers:
			done = c.step(in)
		case <-c.returned:
			done = c.decide(c.rules.leadReturned)
		case err := <-c.client.Remade:
			c.client.Remaking = false
			c.client.Report(leaseFailed, err, "leading", c.rules.leading)
		case a := <-c.asks:
			if a.lease != c.lease {
				a.done <- ErrDeposed
				break
			}
			c.waiting = append(c.waiting, a)
			done = c.decide(func(now time.Time) effects { return c.rules.renew(a.update, now) })
		}
	}
	if c.gaveUp {
		return fmt.Errorf("resign as leader of store %s: not acknowledged within %s", c.cfg.Store, resignWait)
	}
	return nil
}

// step lets the rules decide on what happened to the key, and does what they say.
func (c *runner) step(in lease.Input) (done bool) {
	return c.decide(func(now time.Time) effects {
		fx := c.rules.Step(in, now)
		if in.Kind == lease.Answered {
			if in.Err == nil {
				c.client.Failing = ""
			}
			if !fx.Renewed { // the next renewal is for them too
				c.waiting, c.sent = append(c.sent, c.waiting...), nil
			}
		}
		return fx
	})
}

// decide lets the rules decide, and does what they say.
func (c *runner) decide(rule func(now time.Time) effects) (done bool) {
	if c.lease != nil {
		if witness := c.lease.witness.Swap(nil); witness != nil {
			c.rules.mine.Witness = *witness
		}
	}
	fx := rule(time.Now())
	c.client.Report(leaseFailed, fx.Failed, "leading", c.rules.leading)
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
		c.client.Read(LeaderKey(c.cfg.Store))
	case fx.Write != nil:
		c.sent, c.waiting = c.waiting, nil
		c.client.Write(*fx.Write)
	}
	if fx.Ensure {
		c.client.Ensure()
	}
	c.client.Wake(fx.Next)
	return fx.Done
}

func (c *runner) begin() {
	ctx, end := context.WithCancelCause(c.client.Context)
	l := &Lease{previous: c.rules.before, vacancy: c.rules.vacancy, asks: c.asks, ended: make(chan struct{})}
	held := c.rules.held
	l.held.Store(&held)
	c.lease, c.end = l, end
	c.log.Info("elected leader of the store", "term", l.Term(), "vacancy", l.vacancy, "previous_leader", l.previous.Leader)
	c.client.Work.Go(func() {
		defer end(nil)
		c.cfg.Lead(ctx, l)
		c.returned <- struct{}{}
	})
}

// over ends the leadership, and tells all who wait for a renewal.
func (c *runner) over(deposed bool) {
	unknown := c.rules.view.State == lease.Unknown || c.rules.ours()
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
func (c *runner) publish() {
	var known *LeaderRecord
	switch r := &c.rules; {
	case r.leading:
		held := r.held
		known = &held
		if c.lease != nil {
			c.lease.held.Store(&held)
		}
	case r.view.State == lease.Present:
		record := r.view.record
		known = &record
	}
	c.leader.Store(known)
}
