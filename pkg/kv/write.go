package kv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/event"
)

// Errors that a write can end with; anything else is NATS's own, wrapped.
var (
	// ErrConflict is returned where the key is no longer at the revision that the write was conditional on.
	ErrConflict = errors.New("revision conflict")
	// ErrDisconnected is returned at once while there is no connection: nothing is written late.
	ErrDisconnected = errors.New("not connected to NATS")
	// ErrRefused is returned where the bucket's stream answers that it does not take the write: it is full,
	// or can't be written.
	ErrRefused = errors.New("the bucket's stream refuses the write")
	// ErrNoStream is returned where nothing listens for the bucket's writes: the bucket is gone, or has no
	// leader.
	ErrNoStream = errors.New("no stream takes the write; is the bucket there, with a leader?")
	// ErrNoAck is returned where the acknowledgement did not come in time; the write may have happened.
	ErrNoAck = errors.New("no acknowledgement in time; does JetStream have a quorum?")
)

// Write is one conditional write. Data nil deletes the record.
type Write struct {
	Key      string
	Data     []byte
	Revision uint64 // the revision last seen for the key, markers included; 0: there must be none
	// TTL is how long the record lives unless it is written again, in whole seconds; 0: for good.
	TTL time.Duration
	// Incarnation is of a deletion, the highest that the key has had: who claims it next goes on from
	// there. Its marker says it, for releaseTTL; 0: it says nothing, and goes with the others, after
	// markerTTL.
	Incarnation uint64
	// Term is of a deletion likewise: the highest term of the store that whoever deletes it knows; 0: none.
	Term uint64
}

// Result is what became of the Write at the same index.
type Result struct {
	Revision uint64 // of the write, where Err is nil
	Err      error
}

// Put performs the writes, all in flight together, and returns when each was acknowledged or failed. It
// never retries: whether to write again is a decision that needs to know what is there now.
func (b *Bucket) Put(ctx context.Context, writes []Write) []Result {
	results := make([]Result, len(writes))
	futures := make([]jetstream.PubAckFuture, len(writes))
	js, err := b.write()
	asked := time.Now()
	for i := range writes {
		if err != nil {
			results[i].Err = err
			continue
		}
		if ctx.Err() != nil {
			results[i].Err = ctx.Err()
			continue
		}
		futures[i], results[i].Err = js.PublishMsgAsync(b.message(&writes[i]), jetstream.WithRetryAttempts(0))
	}
	for i, future := range futures {
		if future != nil {
			results[i] = await(ctx, future)
		}
		switch err := results[i].Err; {
		case err == nil && len(writes) == 1: // of many the last have waited for the others
			b.link.Observe(time.Since(asked))
		case err != nil:
			if results[i].Err = b.suspect(describe(err)); errors.Is(results[i].Err, ErrNoAck) {
				b.link.Probe()
			}
		}
	}
	return results
}

func (b *Bucket) message(w *Write) *nats.Msg {
	m := &nats.Msg{Subject: b.written + w.Key, Data: w.Data, Header: nats.Header{
		jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(w.Revision, 10)},
	}}
	if w.TTL > 0 {
		m.Header[jetstream.MsgTTLHeader] = []string{w.TTL.String()}
	}
	if w.Data == nil {
		m.Header[operationHeader] = []string{operationDelete}
		if b.kind == Checkpoints {
			return m // that bucket knows no TTL
		}
		m.Header[jetstream.MsgTTLHeader] = []string{markerTTL.String()}
		w.remember(m.Header, event.IncarnationHeader, w.Incarnation)
		w.remember(m.Header, event.TermHeader, w.Term)
	}
	return m
}

// remember puts a number into a marker, which then lives for releaseTTL.
func (w *Write) remember(marker nats.Header, name string, number uint64) {
	if number > 0 {
		marker[name] = []string{strconv.FormatUint(number, 10)}
		marker[jetstream.MsgTTLHeader] = []string{releaseTTL.String()}
	}
}

func await(ctx context.Context, future jetstream.PubAckFuture) Result {
	select {
	case ack := <-future.Ok():
		return Result{Revision: ack.Sequence}
	case err := <-future.Err():
		return Result{Err: err}
	case <-ctx.Done():
		return Result{Err: ctx.Err()}
	}
}

func describe(err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant):
		return ErrConflict
	case errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionReconnecting):
		return ErrDisconnected
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		return ErrNoStream
	case errors.Is(err, jetstream.ErrAsyncPublishTimeout), errors.Is(err, context.DeadlineExceeded):
		return ErrNoAck
	case api != nil:
		return fmt.Errorf("%w: %w", ErrRefused, err)
	default:
		return fmt.Errorf("write: %w", err)
	}
}
