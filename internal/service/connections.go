package service

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/sink"
)

// connections are an instance's connections to NATS, and what the server refuses on them.
type connections struct {
	log       *slog.Logger
	main      *nats.Conn // of the instance
	operators *nats.Conn // their requests come here: on main they would wait behind what a round of 100,000 has under way
	sending   *nats.Conn // what publish sinks send goes here: nothing but that is reported of it, and nothing comes before the answer to a PING
	js        jetstream.JetStream
	publisher *sink.Publisher // on sending

	violations            *violations
	hears, operatorsHears *hearing      // of main and of operators
	denials               *sink.Denials // what sinks may not do
	denied                chan error    // what else is not permitted, while starting
}

func newConnections(cfg func() *config.Config, instance string, log *slog.Logger) *connections {
	v, name := newViolations(log), "subproxy "+instance+" permissions"
	return &connections{
		log: log, violations: v, hears: newHearing(cfg, name, v, log), operatorsHears: newHearing(cfg, name, v, log),
		denials: &sink.Denials{}, denied: make(chan error, 16),
	}
}

// open connects. OnReconnect is called when main was connected again.
func (c *connections) open(ctx context.Context, cfg *config.Config, instance string, onReconnect func()) (err error) {
	name := "subproxy " + instance
	c.main, c.js, err = dial(ctx, cfg, connect.Options{
		Name: name, Logger: c.log, OnReconnect: onReconnect,
		OnDisconnect: func() { c.log.Warn("disconnected from NATS; reconnecting") }, OnError: c.mainError,
	})
	if err != nil {
		return err
	}
	if c.operators, _, err = dial(ctx, cfg, connect.Options{Name: name + " control", Logger: c.log, OnError: c.operatorsError}); err != nil {
		return err
	}
	if c.sending, _, err = dial(ctx, cfg, connect.Options{Name: name + " sinks", Logger: c.log, OnError: c.sinkError}); err != nil {
		return err
	}
	c.publisher = sink.NewPublisher(c.sending)
	return nil
}

// outlet is where sinks send.
func (c *connections) outlet() sink.Outlet {
	return sink.Outlet{JetStream: c.js, Publisher: c.publisher, Denials: c.denials}
}

// regain gets back what the server takes away, until ctx ends.
func (c *connections) regain(ctx context.Context, work *sync.WaitGroup) {
	work.Go(func() { c.hears.run(ctx, c.main) })
	work.Go(func() { c.operatorsHears.run(ctx, c.operators) })
}

// all are those that were made.
func (c *connections) all() (made []*nats.Conn) {
	for _, nc := range []*nats.Conn{c.main, c.operators, c.sending} {
		if nc != nil {
			made = append(made, nc)
		}
	}
	return made
}

// connected reports whether NATS is connected, and operators can ask.
func (c *connections) connected() bool { return c.main.IsConnected() && c.operators.IsConnected() }

// messages are how many came and went so far.
func (c *connections) messages() (in, out uint64) {
	for _, nc := range c.all() {
		stats := nc.Stats()
		in, out = in+stats.InMsgs, out+stats.OutMsgs
	}
	return in, out
}

// flush waits until the servers have what was sent.
func (c *connections) flush(ctx context.Context) {
	for _, nc := range c.all() {
		if !nc.IsConnected() {
			continue // it would wait for a connection
		}
		if err := nc.FlushWithContext(ctx); err != nil {
			c.log.Debug("flush on stop", "error", err)
		}
	}
}

func (c *connections) close() {
	for _, nc := range c.all() {
		nc.Close()
	}
}

// permitted asks the server whether it refused anything so far.
func (c *connections) permitted() error {
	for _, nc := range []*nats.Conn{c.main, c.operators} {
		if nc == nil {
			continue
		}
		if err := nc.FlushTimeout(2 * time.Second); err != nil {
			return nil // a connection that is just down is not refused
		}
		// NATS tells the handler of an error after the flush has returned, perhaps, but keeps the last
		// error before. What sinks may not do degrades their subscriptions and nothing else.
		var denied *connect.PermissionError
		if errors.As(connect.Explain(nc.LastError()), &denied) && !c.denials.Concern(denied.Subject) {
			return denied
		}
	}
	select {
	case err := <-c.denied:
		return err
	default:
		return nil
	}
}

// hindered is what the instance can't do for want of a permission; empty: nothing.
func (c *connections) hindered() string {
	return joinReasons(c.violations.hindering(time.Now()), c.hears.hindering(), c.operatorsHears.hindering())
}

func (c *connections) mainError(nc *nats.Conn, sub *nats.Subscription, err error) {
	c.hears.report(nc, err)
	c.refused(sub, err)
}

func (c *connections) operatorsError(nc *nats.Conn, sub *nats.Subscription, err error) {
	c.operatorsHears.report(nc, err)
	c.refused(sub, err)
}

// sinkError is for what publish sinks send.
func (c *connections) sinkError(_ *nats.Conn, _ *nats.Subscription, err error) {
	raw, subject := err, ""
	var denied *connect.PermissionError
	if errors.As(err, &denied) {
		raw, subject = denied.Err, denied.Subject
	}
	c.publisher.Report(raw, subject, err)
	c.violations.report("", err, time.Now())
}

func (c *connections) refused(sub *nats.Subscription, err error) {
	var refused *connect.PermissionError
	if errors.As(err, &refused) {
		c.denials.Report(refused.Subject, refused)
	}
	if refused != nil && !c.denials.Concern(refused.Subject) {
		select {
		case c.denied <- err:
		default:
		}
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	c.violations.report(subject, err, time.Now())
}
