package sink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Publisher is a connection that publish sinks send on, and tells what of it the server has taken. One
// confirmation serves all that is under way, whichever sinks sent it.
//
// A server answers a PING after it has handled all that came before on the connection, and says what it
// does not permit before that answer. nats.go (1.55) reads both in one goroutine: at an error it sets
// LastError and queues the call of the error handler, and only then it comes to the PONG that ends the
// flush. So what was published between a Mark and a flush that was answered is
//
//   - unknown where the client has reconnected since the mark: it may have been in the buffers of a connection that died, and the PONG is the
//     new connection's;
//   - taken where LastError is the same value as at the mark;
//   - else taken, but for what Report is told. Handlers are called in order, so that nothing is missing once Report was told that LastError.
//
// "The same value" means "no error in between" because each refusal is a value of its own. Others are not:
// a slow consumer before and another one after a refusal would hide it. They concern subscriptions; so the
// connection should have none.
type Publisher struct {
	nc *nats.Conn

	mu       sync.Mutex
	reports  uint64 // how many there were
	last     error  // reported last
	reported chan struct{}
	refusals map[string]denial // by subject, the last one; empty: it concerns everything
}

type denial struct {
	report uint64
	reason error
}

const (
	// confirmWithin bounds the wait for a PONG. A connection that is dead is given up earlier
	// (internal/connect: 15 s), and then there is no more to wait for; a server that is only slow must not
	// be sent everything again.
	confirmWithin = 20 * time.Second
	// reportWithin bounds the wait for an error handler that is not called, or is busy. What was published
	// counts as unknown after it.
	reportWithin = time.Second
)

// ErrUnconfirmed is matched by errors of publish sinks: the event was sent, and it is not known whether it
// has reached the server.
var ErrUnconfirmed = errors.New("not confirmed by the NATS server")

// NewPublisher makes one. The connection's error handler should call Report: without it a refusal makes
// everything unknown that was under way, and not only what it concerns.
func NewPublisher(nc *nats.Conn) *Publisher {
	return &Publisher{nc: nc, reported: make(chan struct{}), refusals: map[string]denial{}}
}

// Report takes an error from the connection's handler, as it came, in the order in which they came: that a
// subject is refused, and the reason to give for it. An empty subject stands for an error that may concern
// everything.
func (p *Publisher) Report(err error, subject string, reason error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reports++
	p.last = err
	p.refusals[subject] = denial{p.reports, reason}
	close(p.reported)
	p.reported = make(chan struct{})
}

// Mark is the state of the connection before something is published.
type Mark struct {
	connection uint64 // reconnects
	last       error
	reports    uint64
}

// Mark returns the state as it is now.
func (p *Publisher) Mark() Mark {
	// In this order: what happens in between makes the mark older than it is, and nothing is missed.
	p.mu.Lock()
	m := Mark{reports: p.reports}
	p.mu.Unlock()
	m.last, m.connection = p.nc.LastError(), p.nc.Stats().Reconnects
	return m
}

// Receipt is the server's answer to a PING. One goroutine uses it.
type Receipt struct {
	publisher  *Publisher
	connection uint64
	last       error
	err        error // there was no answer
	reported   bool
}

// Confirm sends a PING behind all that was published so far and waits for the answer, until ctx ends or the
// connection is given up.
func (p *Publisher) Confirm(ctx context.Context) *Receipt {
	ctx, cancel := context.WithTimeout(ctx, confirmWithin)
	defer cancel()
	r := &Receipt{publisher: p}
	if r.err = p.nc.FlushWithContext(ctx); r.err != nil {
		return r
	}
	// What comes between the answer and these can only make the receipt worse than it is.
	r.last, r.connection = p.nc.LastError(), p.nc.Stats().Reconnects
	return r
}

// Of is nil where the server has taken what was published on the subject after the mark and before the
// PING.
func (r *Receipt) Of(since Mark, subject string) error {
	switch {
	case r.err != nil:
		return fmt.Errorf("%w: %w", ErrUnconfirmed, r.err)
	case r.connection != since.connection, r.last == nil && since.last != nil: // LastError is cleared when a connection is lost
		return fmt.Errorf("%w: %w", ErrUnconfirmed, nats.ErrDisconnected)
	case r.last == since.last:
		return nil
	}
	p := r.publisher
	if r.reported = r.reported || p.allReported(); !r.reported {
		return fmt.Errorf("%w: %w", ErrUnconfirmed, r.last)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if was := p.refusals[subject]; was.report > since.reports {
		return &deniedError{was.reason}
	}
	if was := p.refusals[""]; was.report > since.reports {
		return fmt.Errorf("%w: %w", ErrUnconfirmed, was.reason)
	}
	return nil
}

// allReported waits until all errors of the connection are reported.
func (p *Publisher) allReported() bool {
	ctx, cancel := context.WithTimeout(context.Background(), reportWithin)
	defer cancel()
	for {
		p.mu.Lock()
		last, reported := p.last, p.reported
		p.mu.Unlock()
		if last != nil && last == p.nc.LastError() {
			return true
		}
		select {
		case <-reported:
		case <-ctx.Done():
			return false
		}
	}
}
