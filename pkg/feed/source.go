package feed

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// pendingBytes is what may wait for a slow handler; beyond that (or the connection's nats.SyncQueueLen) live messages are
// dropped, which is a gap like any other.
const pendingBytes = 128 << 20

// errLost: the source dropped messages, and goes on.
var errLost = errors.New("live messages were dropped")

// source gives the messages of a stream as they are stored.
type source interface {
	// next waits for a message, until ctx ends. Any other error than errLost means that the source is of no more use.
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
		if errors.Is(err, nats.ErrSlowConsumer) {
			return Message{}, errLost
		}
		if err != nil {
			return Message{}, err
		}
		if msg, ok := decode(m, r.stream); ok { // others may send under the same subject
			return msg, nil
		}
	}
}

func (r *republish) close() { _ = r.sub.Unsubscribe() } // fails only if the connection is closed

// ordered is an ephemeral consumer in memory, without acknowledgements, read in order. nats.go's own ordered consumer
// isn't used because it hides what is needed here: while its stream is away its Next doesn't heed the context, its Stop
// waits up to 20 s, and on a stream that was created again it waits for the old sequence.
type ordered struct {
	js       jetstream.JetStream
	stream   string
	consumer string
	messages jetstream.MessagesContext
	cancel   context.CancelFunc
	items    chan item
	done     chan struct{} // closed by pump
}

type item struct {
	msg Message
	err error
}

func openOrdered(ctx context.Context, js jetstream.JetStream, stream string, from uint64) (*ordered, error) {
	create, done := context.WithTimeout(ctx, infoWait)
	defer done()
	consumer, err := js.CreateConsumer(create, stream, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return nil, fmt.Errorf("create ordered consumer on %s: %w", stream, err)
	}
	messages, err := consumer.Messages(jetstream.PullHeartbeat(500*time.Millisecond), jetstream.PullExpiry(10*time.Second),
		jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return nil, fmt.Errorf("read ordered consumer on %s: %w", stream, err)
	}
	pumping, cancel := context.WithCancel(ctx)
	o := &ordered{js: js, stream: stream, consumer: consumer.CachedInfo().Name, messages: messages,
		cancel: cancel, items: make(chan item, 512), done: make(chan struct{})}
	go o.pump(pumping)
	return o, nil
}

// pump reads without interruption: each call of nats.go's Next starts its heartbeat clock anew, so if the feed's loop,
// which is woken for every poll, made the calls, a dead consumer would never be noticed.
func (o *ordered) pump(ctx context.Context) {
	defer close(o.done)
	var delivered uint64
	for {
		m, err := o.messages.Next(jetstream.NextContext(ctx))
		var meta *jetstream.MsgMetadata
		if err == nil {
			meta, err = m.Metadata()
		}
		if err == nil {
			delivered++
			if meta.Sequence.Consumer != delivered {
				err = fmt.Errorf("ordered consumer on %s: delivery %d follows %d", o.stream, meta.Sequence.Consumer, delivered-1)
			}
		}
		it := item{err: err}
		if err == nil {
			it.msg = Message{Subject: m.Subject(), Sequence: meta.Sequence.Stream, Time: meta.Timestamp, Header: m.Headers(), Data: m.Data()}
		}
		select {
		case o.items <- it:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (o *ordered) next(ctx context.Context) (Message, error) {
	if err := ctx.Err(); err != nil {
		return Message{}, err
	}
	select {
	case it := <-o.items:
		return it.msg, it.err
	case <-ctx.Done():
		return Message{}, ctx.Err()
	}
}

func (o *ordered) close() {
	o.cancel()
	<-o.done
	o.messages.Stop()
	if !o.js.Conn().IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaderWait)
	defer cancel()
	_ = o.js.DeleteConsumer(ctx, o.stream, o.consumer) // if it fails the consumer ends by its inactivity
}
