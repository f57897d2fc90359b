package feed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// pendingBytes is what may wait for a slow handler; beyond that (or the connection's nats.SyncQueueLen)
// live messages are dropped, which is a gap like any other.
const pendingBytes = 128 << 20

var (
	// errLost: the source dropped messages, and goes on.
	errLost = errors.New("live messages were dropped")
	// errHidden: there is a message that the source can't show. It is in the stream.
	errHidden = errors.New("a live message was hidden")
)

// source gives the messages of a stream as they are stored.
type source interface {
	// next waits for a message, until ctx ends. Any other error than errLost and errHidden means that the
	// source is of no more use.
	next(ctx context.Context) (Message, error)
	close()
}

// republish is a core subscription to the stream's republish destination.
type republish struct {
	sub    *nats.Subscription
	stream string
}

func openRepublish(nc *nats.Conn, stream, subject string) (*republish, error) {
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", subject, err)
	}
	if err := sub.SetPendingLimits(-1, pendingBytes); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe %s: %w", subject, err), sub.Unsubscribe())
	}
	return &republish{sub: sub, stream: stream}, nil
}

func (r *republish) next(ctx context.Context) (Message, error) {
	for {
		m, err := r.sub.NextMsgWithContext(ctx)
		switch {
		case errors.Is(err, nats.ErrSlowConsumer):
			return Message{}, errLost
		case errors.Is(err, nats.ErrNoResponders):
			// Nothing was asked here: the message was stored with a header Status, 503, and no data, which
			// nats.go takes for the server's word, and keeps.
			return Message{}, errHidden
		case err != nil:
			return Message{}, err
		}
		if msg, ok := decode(m, r.stream); ok { // others may send under the same subject
			return msg, nil
		}
	}
}

func (r *republish) close() { _ = r.sub.Unsubscribe() } // fails only if the connection is closed

// ordered is a consumer that is read in order. nats.go's own ordered consumer isn't used because it hides
// what is needed here: while its stream is away its Next doesn't heed the context, its Stop waits up to 20
// s, on a stream that was created again it waits for the old sequence, and it takes some messages for
// statuses (see puller).
type ordered struct {
	*puller
	delivered uint64
	heard     time.Time // when the server was heard of last, as far as was looked
	timer     *time.Timer
}

const (
	// orderedBatch and orderedBytes are what is asked for at once, and twice max_payload where that is
	// more: no message is larger. Over a thin link it is less.
	orderedBatch = 500
	orderedBytes = 8 << 20
	// orderedBeat is how often an idle consumer says that it lives, and orderedSilence how long it may say
	// nothing. That is twice as long, so that one that was lost costs nothing.
	orderedBeat    = 500 * time.Millisecond
	orderedSilence = 2 * orderedBeat
	orderedPrefix  = "subproxy_following_"
)

// errSilent: the consumer, or its server, is gone.
var errSilent = fmt.Errorf("nothing was heard of the consumer for %s", orderedSilence)

func openOrdered(ctx context.Context, a api, from uint64) (*ordered, error) {
	create, done := a.link.Limit(ctx, infoWait)
	defer done()
	// Room for all that two requests give while nobody looks: messages, and what is said until they expire.
	p, err := openPuller(create, a, orderedPrefix, from, 2*orderedBatch+64)
	if err != nil {
		return nil, err
	}
	return &ordered{puller: p, heard: time.Now(), timer: time.NewTimer(time.Hour)}, nil
}

func (o *ordered) next(ctx context.Context) (Message, error) {
	for {
		if o.asked <= orderedBatch {
			bytes := max(min(orderedBytes, o.api.link.Carries()/2), 2*int(o.api.nc.MaxPayload()))
			if err := o.ask(orderedBatch, bytes, orderedBeat); err != nil {
				return Message{}, err
			}
		}
		m, err := o.receive(ctx)
		if err != nil {
			return Message{}, err
		}
		if !isStatus(m) {
			return o.accept(m)
		}
		if err := o.status(m); err != nil {
			return Message{}, err
		}
	}
}

// receive waits for the next answer. What came while nobody looked counts as heard of now, and what may be on
// its way is waited for.
func (o *ordered) receive(ctx context.Context) (m *nats.Msg, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	open := true
	select {
	case m, open = <-o.answers:
	default:
		o.timer.Reset(o.api.link.Patience(orderedSilence) - time.Since(o.heard))
		select {
		case m, open = <-o.answers:
		case <-o.timer.C:
			if err := o.api.link.Settle(ctx); err != nil {
				return nil, cmp.Or(ctx.Err(), err)
			}
			select {
			case m, open = <-o.answers:
			default:
				return nil, errSilent
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if !open {
		return nil, nats.ErrConnectionClosed
	}
	o.heard = time.Now()
	return m, nil
}

// status takes what the server says of a request: that it lives, or that the request is over.
func (o *ordered) status(m *nats.Msg) error {
	if isHeartbeat(m) {
		return nil
	}
	left, ok := unserved(m)
	if expired := m.Header.Get("Status") == "408"; !ok || left >= orderedBatch && !expired {
		return fmt.Errorf("the consumer that follows %s ends: %s %s", o.api.stream, m.Header.Get("Status"), m.Header.Get("Description"))
	}
	o.asked -= left
	return nil
}

func (o *ordered) accept(m *nats.Msg) (Message, error) {
	at, ok := o.placeOf(m)
	o.delivered++
	if !ok || at.delivery != o.delivered {
		return Message{}, fmt.Errorf("the consumer that follows %s: delivery %d comes as %q", o.api.stream, o.delivered, m.Reply)
	}
	o.asked--
	return at.message(m), nil
}

func (o *ordered) close() {
	o.timer.Stop()
	o.puller.close()
}
