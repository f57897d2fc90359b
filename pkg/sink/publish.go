package sink

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// Sender is a sink that need not wait for each event: Send is the hot path, and returns once the event is
// on its way. It is accepted when a Receipt of the publisher, for a mark that was made before, says so of
// the subject. Deliver does both.
type Sender interface {
	Batcher
	Send(e *Event) error // Deliver's errors, but for those that the server makes
	Publisher() *Publisher
	Subject() string
}

// publishSink copies nothing in Send, and makes nothing but errors.
type publishSink struct {
	publisher *Publisher
	subject   string
}

func (s *publishSink) Publisher() *Publisher { return s.publisher }
func (s *publishSink) Subject() string       { return s.subject }

func (s *publishSink) Send(e *Event) error {
	m := e.Message
	m.Subject, m.Reply = s.subject, "" // the reply subject is the emitter's, and none of the subscriber's business
	if err := s.publisher.nc.PublishMsg(m); err != nil {
		return undeliverable(s.publisher.nc, s.subject, m, err)
	}
	return nil
}

func (s *publishSink) Deliver(ctx context.Context, e *Event) error {
	_, err := s.DeliverBatch(ctx, []*Event{e})
	return err
}

// DeliverBatch implements Batcher: what was sent is accepted together.
func (s *publishSink) DeliverBatch(ctx context.Context, events []*Event) (accepted int, err error) {
	since := s.publisher.Mark()
	var unsent error
	for _, e := range events {
		if unsent = s.Send(e); unsent != nil {
			break
		}
		accepted++
	}
	if accepted == 0 {
		return 0, unsent
	}
	if err := s.publisher.Confirm(ctx).Of(since, s.subject); err != nil {
		return 0, fmt.Errorf("forward to %s: %w", s.subject, err)
	}
	return accepted, unsent
}

// undeliverable tells whether the client's error is the event's fault. Not final: a server that takes more
// may be next.
func undeliverable(nc *nats.Conn, subject string, m *nats.Msg, err error) error {
	if errors.Is(err, nats.ErrMaxPayload) {
		return &RefusedError{Reason: fmt.Sprintf("%d bytes are more than the server takes (max_payload %d)", m.Size(), nc.MaxPayload()), Err: err}
	}
	if errors.Is(err, nats.ErrBadHeaderMsg) {
		return &RefusedError{Reason: "a header has a name that NATS does not carry", Final: true, Err: err}
	}
	return fmt.Errorf("forward to %s: %w", subject, err)
}
