package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Kind of sink, as the configuration names it.
type Kind string

// The kinds of sink.
const (
	Publish Kind = "publish" // core NATS: at least once as far as the server, which knows of nobody who listens or not
	Request Kind = "request" // the subscriber replies
	Stream  Kind = "stream"  // JetStream: once within the stream's duplicate window
	Handler Kind = "handler" // a HandlerFunc; only in Go, never in a configuration file
)

// Kinds lists every kind, in the order of the documentation.
func Kinds() []Kind { return []Kind{Publish, Request, Stream, Handler} }

// DeliveredPrefix begins the subject on which the events of a subscription without a forward are published:
// <store>.<name> follows.
const DeliveredPrefix = "exesdb.delivered."

// DeliveredSubject is where the events of a subscription without a forward are published.
func DeliveredSubject(s subscription.Subscription) string {
	return DeliveredPrefix + subscription.EncodeToken(s.Store) + "." + subscription.EncodeToken(s.Name)
}

// DefaultTimeout is how long a request, or the acknowledgement of a stream, is waited for where
// Config.Timeout is 0.
const DefaultTimeout = 5 * time.Second

// Errors that callers match. Those about the event itself are *RefusedError.
var (
	// ErrUnavailable is for handlers: an error that wraps it says that the event is good and can't be taken
	// now. It is delivered again without being counted as refused.
	ErrUnavailable = errors.New("the subscriber is unavailable")
	// ErrNoSubscriber is returned by request sinks: nobody listens on the subject.
	ErrNoSubscriber = errors.New("no subscriber listens")
	// ErrNoReply is returned by request and stream sinks: the answer did not come in time.
	ErrNoReply = errors.New("no reply")
	// ErrSuperseded is returned by request sinks, and is for handlers: the subscriber has accepted events
	// of a later incarnation of the registration than the event's. That says nothing about the event: it is
	// never parked for it, and whether it is still this proxy's to deliver, the registration tells.
	ErrSuperseded = errors.New("superseded: the subscriber has accepted events of a later incarnation")
	// ErrNoStream is returned by Check, and by stream sinks: no stream listens on the subject.
	ErrNoStream = errors.New("no stream listens")
	// ErrConfig is returned by New for a configuration that no sink can be made of.
	ErrConfig = errors.New("invalid sink")
)

// RefusedError is returned by Deliver for an event that the subscriber, the stream or the client refuses:
// the fault is the event's, and it is parked when it was refused too often.
type RefusedError struct {
	Reason string
	Final  bool  // it would be refused again: park it at once
	Err    error // what it was made of; nil where the subscriber's words are all there is
}

func (e *RefusedError) Error() string { return "refused: " + e.Reason }
func (e *RefusedError) Unwrap() error { return e.Err }

// Config says where a subscription's events go. It is comparable.
type Config struct {
	Kind       Kind
	Subject    string        // without wildcards; empty for a handler
	Timeout    time.Duration // of one request; default DefaultTimeout
	MaxDeliver int           // an event refused this many times is parked; the caller counts
}

// Blocks reports whether an event waits for somebody's answer to the one before it. Those of a publish sink
// don't: it is a Sender.
func (c Config) Blocks() bool { return c.Kind != Publish }

func (c Config) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return DefaultTimeout
}

func (c Config) check() error {
	switch c.Kind {
	case Publish, Request, Stream:
	case Handler:
		return fmt.Errorf("%w: a handler is a Go function; only the program that has it can deliver to it", ErrConfig)
	default:
		return fmt.Errorf("%w: kind %q is not publish, request or stream", ErrConfig, c.Kind)
	}
	if !event.ValidSubject(c.Subject) {
		return fmt.Errorf("%w: %q is not a subject to send to; forward.subject needs one without wildcards and spaces", ErrConfig, c.Subject)
	}
	return nil
}

// Event is one event on its way to the subscriber. Message has the event's headers and data, and no subject
// yet; the sink sets Subject and Reply and headers of its own. A sink does not use it after Deliver
// returned, and the same Event can be delivered again.
type Event struct {
	Store, Subscription string
	Key                 string // of the subscription's registration, which another selector changes; empty where it is not known
	Sequence            uint64 // the store's; 0 where the sender gave none
	Incarnation         uint64 // the registration's
	Epoch               string // which history of the store the sequence is of; empty where the sender does not tell
	Message             *nats.Msg
}

// Parsed returns it as an event.Event, for handlers. Its time is zero where the event has no ce-time. The
// error is event.ErrNotAnEvent where the headers ce-type and ce-subject are missing.
func (e *Event) Parsed() (*event.Event, error) {
	parsed, err := event.FromMessage(e.Store, "", e.Sequence, time.Time{}, e.Message.Header, e.Message.Data)
	if err != nil {
		return nil, err
	}
	return &parsed, nil
}

// Sink takes a subscription's events one after the other, in order. Deliver returns nil once the event is
// accepted, a *RefusedError if the subscriber or the stream refuses it, and any other error if nobody can
// take it now: that one is retried without counting.
type Sink interface {
	Deliver(ctx context.Context, e *Event) error
}

// Prober is implemented by sinks that can find out without an event whether somebody may take one. The
// error is Deliver's where it is known that nobody can.
type Prober interface {
	Sink
	Ready(ctx context.Context) error
}

// New makes the sink of a configuration, on one connection, and without being told what the server refuses.
// It asks nobody; Check does.
func New(js jetstream.JetStream, c Config) (Sink, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	return Outlet{JetStream: js, Publisher: NewPublisher(js.Conn())}.New(c)
}

// Outlet is what a program's sinks send with.
type Outlet struct {
	JetStream jetstream.JetStream // of request and stream sinks
	Publisher *Publisher          // of publish sinks; on a connection of its own
	Denials   *Denials            // of JetStream's connection; may be nil
}

// New is New with the outlet.
func (o Outlet) New(c Config) (Sink, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	switch c.Kind {
	case Request:
		nc := o.JetStream.Conn()
		return newSparing(&requestSink{nc: nc, subject: c.Subject, timeout: c.timeout(), denials: o.Denials}, nc, c, ErrNoSubscriber), nil
	case Stream:
		to := &streamSink{js: o.JetStream, subject: c.Subject, timeout: c.timeout(), denials: o.Denials}
		return &sparingBatcher{newSparing(to, o.JetStream.Conn(), c, ErrNoStream), to}, nil
	default:
		return &publishSink{publisher: o.Publisher, subject: c.Subject}, nil
	}
}

// Check tells at the start what would otherwise be told by the first event. The error is ErrConfig, or for
// a stream sink ErrNoStream if no stream listens on the subject, or ErrUnfit. Other kinds need nobody to be
// there yet.
func Check(ctx context.Context, js jetstream.JetStream, c Config) error {
	_, err := Outlet{JetStream: js}.Check(ctx, c)
	return err
}

// Check is Check, and returns the target of a stream sink.
func (o Outlet) Check(ctx context.Context, c Config) (Target, error) {
	if c.Kind == Handler {
		return Target{}, nil
	}
	if err := c.check(); err != nil || c.Kind != Stream {
		return Target{}, err
	}
	return look(ctx, o.JetStream, o.Denials, c.Subject)
}
