// Package subproxy embeds an instance of subproxy in a Go program: it keeps event-store subscriptions
// attached to a leader that moves, and hands their events to a function, once and in order for each run.
//
// An instance registers each subscription in a JetStream KV bucket, reads the registration back, and
// registers again the moment the store's leader changes, its emitters restart, or the record is lost.
// Instances of different names share the subscriptions that they have in common, whether they are embedded
// or processes of their own (cmd/subproxy). Subjects, records and messages are those of subjects.md.
//
// It promises that an event is acknowledged only when it was taken (see Options), and that Stop hands over
// what it holds.
//
// It leaves to the program the connection and its permissions, and to somebody else the other side: an
// emitter per store (pkg/emitter, subproxy emitter, or one by subjects.md).
package subproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/internal/instance"
	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/exesdb/subproxy/pkg/subscription"
	"github.com/exesdb/subproxy/pkg/supervisor"
)

// The words of a subscription.
type (
	// Subscription says which events of which store are wanted. Store, Type, Selector and Name are
	// required.
	Subscription = subscription.Subscription
	// Event is what a Handler gets. Others may have it too: it must not be changed.
	Event = event.Event
	// Status is the health of one subscription.
	Status = status.Status
	// Settings are the intervals and thresholds of the rules.
	Settings = proxy.Settings
)

// What a selector picks by.
const (
	ByStream       = subscription.ByStream       // a stream id, or AllStreams
	ByEventType    = subscription.ByEventType    // an event type
	ByEventPattern = subscription.ByEventPattern // a JSON object that an event's attributes contain
	ByEventPayload = subscription.ByEventPayload // a JSON object that an event's data contain
	AllStreams     = subscription.AllStreams
)

// ErrUnavailable is for handlers: an error that wraps it says that the event is good and can't be taken
// now. It comes again, and does not count as refused.
var ErrUnavailable = sink.ErrUnavailable

// DefaultMaxDeliver is how many times an event is refused before it is parked.
const DefaultMaxDeliver = 5

// DefaultSettings are those of a configuration file that says nothing.
func DefaultSettings() Settings { return proxy.DefaultSettings() }

// Options are how an instance runs. The zero value is good for a program of which one run a host is up.
type Options struct {
	// Name is the instance's, which a restart keeps: the last run of a name is superseded by the next.
	// Default: the host's name.
	Name string
	// Handler takes the events, one subscription's one after the other, those of different ones at once. An
	// error refuses the event: it comes again, and is parked after MaxDeliver refusals (see
	// ErrUnavailable). The handler should heed ctx, which ends when the event is no longer this instance's
	// to take. Without a Handler events are published on exesdb.delivered.<store>.<name>.
	Handler func(ctx context.Context, s Subscription, e *Event) error
	// MaxDeliver is how many times an event is refused before it is parked, from 1. Default:
	// DefaultMaxDeliver.
	MaxDeliver int
	// Weight is this instance's share of the subscriptions beside others, 1 to 100. Default: 1.
	Weight int
	// SessionTTL is how long the instance may be silent before others take over, 500 ms or more. Default: 3
	// s.
	SessionTTL time.Duration
	// Domain is the JetStream domain that holds the buckets, or APIPrefix says where an imported JetStream
	// answers; one of them at most. Default: the server's own.
	Domain, APIPrefix string
	// Replicas are those of the buckets, where they are created: 1, 3 or 5. Default: 1.
	Replicas int
	// Memory bounds the events that wait for the handler, in bytes. Default: 256 MiB.
	Memory int64
	// Settings replace the DefaultSettings as a whole.
	Settings *Settings
	// Logger gets what an operator should know. Default: nothing is logged.
	Logger *slog.Logger
	// Registerer gets the metrics. Default: nothing is measured.
	Registerer prometheus.Registerer
}

// Instance is one run. Its methods are safe for concurrent use.
type Instance struct {
	run     *instance.Instance
	sending *nats.Conn // what is published goes here: one answer of the server confirms all before it
	nc      *nats.Conn
	changed chan nats.Status
	ended   chan struct{}
}

// Open begins to hold the subscriptions. It creates the buckets where they are absent, waits until ctx ends
// for a JetStream that is only starting, and returns when the other instances can see this one; its first
// registrations may still be under way.
//
// The connection should have nats.MaxReconnects(-1) and nats.ReconnectBufSize(-1), so that it outlasts any
// outage and tells at once what can't be sent. It stays the caller's to close, after Stop.
func Open(ctx context.Context, nc *nats.Conn, o Options, subs ...Subscription) (*Instance, error) {
	canonical, err := check(subs)
	if err != nil {
		return nil, err
	}
	js, err := connect.JetStream(nc, o.Domain, o.APIPrefix)
	if err != nil {
		return nil, fmt.Errorf("open an instance: %w", err)
	}
	if o.Name == "" {
		if o.Name, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("Options.Name is empty, and the host has no name: %w", err)
		}
	}
	i := &Instance{nc: nc, ended: make(chan struct{})}
	to, publisher, err := i.sinks(js, &o)
	if err != nil {
		return nil, err
	}
	i.run, err = instance.Open(ctx, o.internal(js, to, publisher))
	if err != nil {
		i.closeSending()
		return nil, fmt.Errorf("open an instance: %w", connect.Explain(err))
	}
	i.changed = nc.StatusChanged(nats.CONNECTED)
	go i.reconnected()
	err = i.run.Start(ctx, instance.Events{Off: o.Settings != nil && !o.Settings.EventDriven, BridgeRegistry: true}, canonical)
	if err == nil {
		err = i.run.Begin(ctx)
	}
	if err != nil {
		i.run.Close()
		i.end()
		return nil, fmt.Errorf("open an instance: %w", connect.Explain(err))
	}
	return i, nil
}

func (o *Options) internal(js jetstream.JetStream, to func(Subscription) (sink.Sink, sink.Config), publisher *sink.Publisher) instance.Options {
	host, _ := os.Hostname()
	settings := proxy.DefaultSettings()
	if o.Settings != nil {
		settings = *o.Settings
	}
	options := instance.Options{
		JetStream: js, Owner: registration.Owner{Name: o.Name, ID: nuid.Next(), Host: host, PID: os.Getpid()}, Weight: o.Weight, TTL: o.SessionTTL,
		Registry: kv.Config{Replicas: o.Replicas, AckWait: settings.VerificationTimeout}, Settings: settings,
		Sink: to, Publisher: publisher, Memory: o.Memory, Logger: o.Logger,
	}
	if o.Registerer != nil {
		options.Metrics = instance.Metrics{
			Proxies: supervisor.NewMetrics(o.Registerer), Delivery: delivery.NewMetrics(o.Registerer), Cluster: cluster.NewMetrics(o.Registerer),
		}
	}
	return options
}

// sinks are where events go: the handler, or a subject for each subscription.
func (i *Instance) sinks(js jetstream.JetStream, o *Options) (func(Subscription) (sink.Sink, sink.Config), *sink.Publisher, error) {
	if o.MaxDeliver == 0 {
		o.MaxDeliver = DefaultMaxDeliver
	}
	if handler := o.Handler; handler != nil {
		return func(s Subscription) (sink.Sink, sink.Config) {
			f := sink.HandlerFunc(func(ctx context.Context, e *Event) error { return handler(ctx, s, e) })
			return f, sink.Config{Kind: sink.Handler, MaxDeliver: o.MaxDeliver}
		}, nil, nil
	}
	var outlet sink.Outlet
	options := i.nc.Opts
	options.Name += " sinks"
	options.AsyncErrorCB = func(_ *nats.Conn, _ *nats.Subscription, err error) {
		raw, subject := err, ""
		err = connect.Explain(err)
		var denied *connect.PermissionError
		if errors.As(err, &denied) {
			raw, subject = denied.Err, denied.Subject
		}
		outlet.Publisher.Report(raw, subject, err)
	}
	sending, err := options.Connect()
	if err != nil {
		return nil, nil, fmt.Errorf("connect once more, for what is published: %w", connect.Explain(err))
	}
	i.sending = sending
	outlet = sink.Outlet{JetStream: js, Publisher: sink.NewPublisher(sending), Denials: &sink.Denials{}}
	return func(s Subscription) (sink.Sink, sink.Config) {
		c := sink.Config{Kind: sink.Publish, Subject: sink.DeliveredSubject(s), MaxDeliver: o.MaxDeliver}
		to, err := outlet.New(c)
		if err != nil { // the subject is one that can be published to
			to = sink.HandlerFunc(func(context.Context, *Event) error { return fmt.Errorf("%w: %w", ErrUnavailable, err) })
		}
		return to, c
	}, outlet.Publisher, nil
}

// reconnected tells the instance when the connection is back.
func (i *Instance) reconnected() {
	defer close(i.ended)
	for {
		select {
		case _, open := <-i.changed:
			if !open {
				return
			}
			i.run.Reconnected()
		case <-i.run.Followed().Done():
			return
		}
	}
}

// Apply makes these the subscriptions: those added start, those removed are released, those changed
// restart, the rest don't notice. An error says which one is wrong; then nothing is changed.
func (i *Instance) Apply(ctx context.Context, subs ...Subscription) error {
	canonical, err := check(subs)
	if err == nil {
		i.run.Apply(ctx, canonical)
	}
	return err
}

// check makes selectors that mean the same the same, and finds what is wrong or there twice.
func check(subs []Subscription) ([]Subscription, error) {
	type name struct{ store, name string }
	canonical, seen := make([]Subscription, len(subs)), map[name]bool{}
	for at, s := range subs {
		canonical[at] = s.Canonical()
		if err := canonical[at].Validate(); err != nil {
			return nil, fmt.Errorf("subscription %s: %w", s, err)
		}
		if is := (name{s.Store, s.Name}); seen[is] {
			return nil, fmt.Errorf("subscription %s: store %q has another of that name; rename one", s, s.Store)
		} else {
			seen[is] = true
		}
	}
	return canonical, nil
}

// Statuses are the subscriptions' as this instance sees them, those that other instances hold too, by store
// and name.
func (i *Instance) Statuses(ctx context.Context) ([]Status, error) {
	return i.run.Supervisor().Statuses(ctx, control.Request{})
}

// Stop hands over and releases: the others take over what they know, every registration that is left is
// deleted. When ctx ends first it stops where it is.
func (i *Instance) Stop(ctx context.Context) {
	i.run.Stop(ctx)
	i.end()
}

// end ends what Open began beside the instance, which has ended.
func (i *Instance) end() {
	<-i.ended
	i.nc.RemoveStatusListener(i.changed)
	i.closeSending()
}

func (i *Instance) closeSending() {
	if i.sending != nil {
		i.sending.Close()
	}
}
