package sink

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// streamSink has one event in flight: with more, a retried one could be stored behind those that came after
// it.
type streamSink struct {
	js      jetstream.JetStream
	subject string
	timeout time.Duration
	denials *Denials
	unfit   atomic.Bool   // the stream was so, and is looked at before each event
	most    atomic.Int32  // events in a batch, where the server takes fewer than largestBatch
	batches atomic.Uint32 // atomicBatches
	askAt   atomic.Int64  // Unix time in nanoseconds, before which the stream is not asked about them again
}

func (s *streamSink) Deliver(ctx context.Context, e *Event) error {
	if err := s.fits(ctx); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	limited, release := s.denials.during(limited, s.subject)
	defer release()
	m := s.message(e)
	// The client's own retries are off: the caller retries, and reports why. An acknowledgement that says
	// "duplicate" is for an event whose first acknowledgement got lost: it is stored.
	_, err := s.js.PublishMsg(limited, m, jetstream.WithRetryAttempts(0))
	if err == nil {
		return nil
	}
	return s.explain(ctx, limited, m, err)
}

// message readies the event's message, which may have been part of a batch before.
func (s *streamSink) message(e *Event) *nats.Msg {
	m := e.Message
	m.Subject, m.Reply = s.subject, ""
	if m.Header == nil {
		m.Header = nats.Header{}
	}
	for _, h := range batchHeaders {
		delete(m.Header, h)
	}
	if id := messageID(e); id != "" {
		m.Header[jetstream.MsgIDHeader] = []string{id}
	} else {
		delete(m.Header, jetstream.MsgIDHeader)
	}
	return m
}

func (s *streamSink) explain(ctx, limited context.Context, m *nats.Msg, err error) error {
	switch {
	case denied(limited) != nil:
		return fmt.Errorf("forward to %s: %w", s.subject, denied(limited))
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w on %s (forward.subject), or it has no leader", ErrNoStream, s.subject)
	case ctx.Err() == nil && limited.Err() != nil:
		if unfit := s.unfitNow(ctx); unfit != nil {
			return unfit
		}
		return fmt.Errorf("%w from a stream on %s within %v", ErrNoReply, s.subject, s.timeout)
	case deadletter.TooLarge(err):
		return &RefusedError{Reason: err.Error(), Err: err}
	default:
		var api *jetstream.APIError
		if errors.As(err, &api) {
			if unfit := s.unfitNow(ctx); unfit != nil {
				return unfit
			}
		}
		return undeliverable(s.js.Conn(), s.subject, m, err)
	}
}

// messageID is <key>/<epoch>/<sequence>, which have no slash, and without the epoch where none is known: in
// a store that is created anew the same sequences are other events. The key is in it because two
// subscriptions that forward to the same stream must not be taken for duplicates of each other, nor one for
// that which had its name before, with another selector. Where the key is not known store and name stand
// for it. An event without a sequence, from a sender that gives none, goes by its CloudEvents source and
// id; one that has no id either has no message id.
//
// A parked event has the same, whoever parks it: an instance, the next one to hold the subscription, or an
// emitter that can't send it.
func messageID(e *Event) string {
	prefix := e.Key
	if prefix == "" {
		prefix = subscription.EncodeToken(e.Store) + "/" + subscription.EncodeToken(e.Subscription)
	}
	prefix += "/"
	id := e.Message.Header.Get(event.IDHeader)
	switch {
	case e.Sequence > 0 && e.Epoch != "":
		return prefix + subscription.EncodeToken(e.Epoch) + "/" + strconv.FormatUint(e.Sequence, 10)
	case e.Sequence > 0:
		return prefix + strconv.FormatUint(e.Sequence, 10)
	case id != "":
		return prefix + subscription.EncodeToken(e.Message.Header.Get(event.SourceHeader)) + "/" + subscription.EncodeToken(id)
	default:
		return ""
	}
}
