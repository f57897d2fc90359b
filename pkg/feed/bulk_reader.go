package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/link"
)

const (
	// maxConsumers is how many of a reader's bulk readers have a consumer at once.
	maxConsumers = 4
	// consumerWait is how long a consumer may show nothing, though it has something, before direct get
	// takes over; and how long one may take to be created. The way there and back is added.
	consumerWait = 500 * time.Millisecond
	// consumerAgain is how long no bulk reader makes another after one was refused or stood still.
	consumerAgain = time.Minute
	// maxRequests is how many pages a consumer is asked for ahead, where the way is long.
	maxRequests = 16
	// consumerPrefix begins the names of consumers, for whoever finds them.
	consumerPrefix = "subproxy_catching_up_"
)

// errStalled: the consumer is of no use any more.
var errStalled = errors.New("the consumer shows nothing more")

// BulkReader reads a long stretch of a stream, as Reader.Read does, and for a third of its cost while an
// ephemeral consumer serves it: the server puts no headers of its own into what it sends by one. Nothing
// depends on the consumer. Where it is refused, shows nothing for 500 ms, or leaves something out, the same
// Read goes on by direct get. It is for one goroutine at a time.
type BulkReader struct {
	reader   *Reader
	log      *slog.Logger
	consumer *consumer // nil: direct get serves
	over     bool      // a consumer has been at the end of the stream
}

// BulkReader begins to read a long stretch. A stream that keeps messages only until they are consumed is
// read without a consumer.
func (r *Reader) BulkReader(log *slog.Logger) *BulkReader {
	return &BulkReader{reader: r, log: log, over: !r.keeps}
}

// Read is Reader.Read, from a sequence that is not below those it has returned. A consumer that it makes
// ends with ctx, which is therefore the same for all of a stretch.
func (b *BulkReader) Read(ctx context.Context, from uint64, batch, maxBytes int) ([]Message, error) {
	if b.consumer == nil && !b.over {
		b.open(ctx, from, batch)
	}
	if b.consumer == nil {
		return b.reader.Read(ctx, from, batch, maxBytes)
	}
	messages, err := b.consumer.read(ctx, from, batch, maxBytes)
	if err != nil || b.consumer.over {
		b.over = b.consumer.over
		b.consumer.abandon()
		b.consumer = nil
	}
	if err != nil && ctx.Err() == nil {
		b.giveUp(err)
	}
	if len(messages) > 0 { // what came before a failure is good
		return messages, nil
	}
	return b.reader.Read(ctx, from, batch, maxBytes)
}

func (b *BulkReader) open(ctx context.Context, from uint64, batch int) {
	if !b.reader.consumers.acquire(time.Now()) {
		return
	}
	c, err := b.reader.openConsumer(ctx, from, batch)
	switch {
	case err == nil:
		b.consumer = c
		context.AfterFunc(ctx, c.close)
		return
	case ctx.Err() == nil:
		b.giveUp(err)
	}
	b.reader.consumers.release()
}

func (b *BulkReader) giveUp(reason error) {
	b.reader.consumers.shun(time.Now().Add(consumerAgain))
	b.log.Info("old messages are read by direct get, which takes longer than by a consumer", "reason", reason, "for", consumerAgain)
}

// consumerLimit bounds a reader's consumers. It is safe for concurrent use.
type consumerLimit struct {
	mu    sync.Mutex
	open  int
	again time.Time // none before
}

func (l *consumerLimit) acquire(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == maxConsumers || now.Before(l.again) {
		return false
	}
	l.open++
	return true
}

func (l *consumerLimit) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
}

func (l *consumerLimit) shun(until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.again = until
}

// consumer is what serves a bulk reader. It is asked for two pages ahead, so the server does not wait for
// whoever takes them, for more over a long way, and within the budget of the connection.
type consumer struct {
	*puller
	reader    *Reader
	released  sync.Once
	delivered uint64    // the consumer's own count
	last      uint64    // sequence in the stream
	over      bool      // the stream has no more
	requests  []request // that are not served yet, in order
}

// request is what a consumer is asked for at once. One is served after the other.
type request struct {
	left  int // messages
	bytes int // that have come
	grant *link.Grant
}

func (r *Reader) openConsumer(ctx context.Context, from uint64, batch int) (*consumer, error) {
	if err := r.outlastsConsumers(ctx); err != nil { // which waits for infoWait at the most
		return nil, err
	}
	ctx, end := r.api.link.Limit(ctx, consumerWait)
	defer end()
	p, err := openPuller(ctx, r.api, consumerPrefix, from, maxRequests*(batch+1)+16)
	if err != nil {
		return nil, err
	}
	return &consumer{puller: p, reader: r, last: from - 1}, nil
}

// outlastsConsumers makes sure that the stream keeps what a consumer was shown: its retention may have been
// changed since the reader was made.
func (r *Reader) outlastsConsumers(ctx context.Context) error {
	info, err := r.api.info(ctx)
	if err == nil && info.Config.Retention != jetstream.LimitsPolicy {
		err = &RetentionError{Stream: r.api.stream, Retention: info.Config.Retention}
	}
	return err
}

// close may be called by any goroutine, and again.
func (c *consumer) close() {
	c.puller.close()
	c.released.Do(c.reader.consumers.release)
}

// abandon is for a consumer that is not read any more. What it was asked for may be on its way.
func (c *consumer) abandon() {
	c.close()
	for _, r := range c.requests {
		r.grant.Abandon()
	}
	c.requests = nil
}

// request asks for more: where nothing is asked for that is not there yet, once there is room for it in the
// budget, else where there is.
func (c *consumer) request(ctx context.Context, batch, maxBytes int) (err error) {
	var grant *link.Grant
	want := c.api.size.of(batch, maxBytes)
	if len(c.requests) > 0 {
		grant = c.api.link.TryTake(ctx, want)
	} else if grant, err = c.api.link.Take(ctx, want); err != nil {
		return err
	}
	if grant == nil {
		return nil
	}
	c.requests = append(c.requests, request{left: batch, grant: grant})
	return c.ask(batch, grant.Bytes, 0)
}

// served notes what came of the request that is served.
func (c *consumer) served(messages, bytes int) {
	if len(c.requests) == 0 {
		return
	}
	r := &c.requests[0]
	r.left, r.bytes = r.left-messages, r.bytes+bytes
	if r.left <= 0 {
		r.grant.Arrived(r.bytes)
		c.requests = c.requests[1:]
	}
}

// read returns up to batch messages. With an error there may be some as well, and the consumer is of no use
// any more.
func (c *consumer) read(ctx context.Context, from uint64, batch, maxBytes int) ([]Message, error) {
	messages := make([]Message, 0, batch)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	requests := min(2+int(c.api.link.Least()/farAway), maxRequests)
	for size := 0; len(messages) < batch && size < maxBytes && !c.over; {
		if len(c.requests) < requests {
			if err := c.request(ctx, batch, maxBytes); err != nil {
				return messages, err
			}
		}
		m, err := c.api.receive(ctx, c.answers, timer, consumerWait)
		if errors.Is(err, errUnheard) {
			err = fmt.Errorf("%w for %s", errStalled, consumerWait)
		}
		if err != nil {
			return messages, err
		}
		if isStatus(m) {
			if err := c.status(m, batch); err != nil {
				return messages, err
			}
			continue
		}
		msg, err := c.accept(m)
		if err != nil {
			return messages, err
		}
		c.api.size.observe(m.Size())
		c.served(1, m.Size())
		if msg.Sequence >= from {
			messages = append(messages, msg)
			size += len(msg.Data)
		}
	}
	return messages, nil
}

// status takes the end of a request: the next message is more than its bytes, or nobody read on for long.
// One that was not served at all would not be the next time either.
func (c *consumer) status(m *nats.Msg, batch int) error {
	left, ok := unserved(m)
	if !ok || left >= batch {
		return fmt.Errorf("%w: %s %s", errStalled, m.Header.Get("Status"), m.Header.Get("Description"))
	}
	c.asked -= left
	c.served(left, 0)
	return nil
}

// accept reads a message, and holds it to the one before.
func (c *consumer) accept(m *nats.Msg) (Message, error) {
	at, ok := c.placeOf(m)
	if !ok {
		return Message{}, fmt.Errorf("%w: delivered with %q", errStalled, m.Reply)
	}
	c.delivered++
	if at.delivery != c.delivered || at.sequence <= c.last {
		return Message{}, fmt.Errorf("%w: delivery %d is its %d, message %d after %d", errStalled, c.delivered, at.delivery, at.sequence, c.last)
	}
	c.asked--
	c.last, c.over = at.sequence, at.pending == 0
	return at.message(m), nil
}
