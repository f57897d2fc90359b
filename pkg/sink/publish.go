package sink

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// publishSink is the hot path: it copies nothing, and makes nothing but errors.
type publishSink struct {
	nc      *nats.Conn
	subject string
}

func (s *publishSink) Deliver(_ context.Context, e *Event) error {
	m := e.Message
	m.Subject, m.Reply = s.subject, "" // the reply subject is the emitter's, and none of the subscriber's business
	if err := s.nc.PublishMsg(m); err != nil {
		return undeliverable(s.nc, s.subject, m, err)
	}
	return nil
}

// undeliverable tells whether the client's error is the event's fault. Not final: a server that takes more may be next.
func undeliverable(nc *nats.Conn, subject string, m *nats.Msg, err error) error {
	if errors.Is(err, nats.ErrMaxPayload) {
		return &RefusedError{Reason: fmt.Sprintf("%d bytes are more than the server takes (max_payload %d)", m.Size(), nc.MaxPayload()), Err: err}
	}
	if errors.Is(err, nats.ErrBadHeaderMsg) {
		return &RefusedError{Reason: "a header has a name that NATS does not carry", Final: true, Err: err}
	}
	return fmt.Errorf("forward to %s: %w", subject, err)
}
