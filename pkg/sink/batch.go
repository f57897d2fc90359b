package sink

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// Batcher is implemented by sinks that take several events in one go. The stream sink does, where its
// stream allows atomic publish (nats-server 2.12 or later, allow_atomic); elsewhere it delivers them one by
// one.
type Batcher interface {
	Sink
	// DeliverBatch delivers events of one subscription in order. The first accepted of them are accepted;
	// the error, nil if that is all of them, is Deliver's for the next one.
	DeliverBatch(ctx context.Context, events []*Event) (accepted int, err error)
}

const (
	// largestBatch is half of what the server takes at the most.
	largestBatch = 500

	// These have no names in nats.go.
	errCodeAtomicPublishDisabled jetstream.ErrorCode = 10174
	errCodeAtomicPublishTooLarge jetstream.ErrorCode = 10199
)

// errSmaller is for a batch that is larger than the server takes, where it is known now how large it may
// be.
var errSmaller = errors.New("the server takes smaller batches")

var batchHeaders = [...]string{jetstreamext.BatchIDHeader, jetstreamext.BatchSeqHeader, jetstreamext.BatchCommitHeader}

// atomicBatches is whether the stream takes batches. Subscriptions share a sink, so that several goroutines
// deliver.
type atomicBatches uint32

const (
	batchesUnknown atomicBatches = iota // ask the stream
	batchesAllowed
	batchesRefused
)

func (s *streamSink) note(b atomicBatches) { s.batches.Store(uint32(b)) }

// DeliverBatch implements Batcher. A batch is stored whole or not at all, so that one is in flight and the
// order holds.
func (s *streamSink) DeliverBatch(ctx context.Context, events []*Event) (accepted int, err error) {
	for accepted < len(events) {
		chunk := events[accepted:min(len(events), accepted+s.largest())]
		n, err := s.deliverChunk(ctx, chunk)
		if errors.Is(err, errSmaller) {
			continue
		}
		if accepted += n; err != nil {
			return accepted, err
		}
	}
	return accepted, nil
}

func (s *streamSink) largest() int {
	if most := int(s.most.Load()); most > 0 {
		return most
	}
	return largestBatch
}

// learn takes the server's refusal of a batch of n events, which ends in the number that it takes
// (jetstream.limits.batch.max_msgs).
func (s *streamSink) learn(n int, refusal string) {
	most, err := strconv.Atoi(refusal[strings.LastIndexByte(refusal, ' ')+1:])
	if err != nil || most < 1 || most >= n {
		most = n / 2
	}
	s.most.Store(int32(most))
}

func (s *streamSink) deliverChunk(ctx context.Context, chunk []*Event) (accepted int, err error) {
	if len(chunk) > 1 && s.takesBatches(ctx) {
		whole, err := s.publishBatch(ctx, chunk)
		switch {
		case err != nil:
			return 0, err
		case whole:
			return len(chunk), nil
		}
	}
	for i, e := range chunk {
		if err := s.Deliver(ctx, e); err != nil {
			return i, err
		}
	}
	return len(chunk), nil
}

// publishBatch returns false and no error where the server or the client refuses the batch: one event may
// be too large, or stored already because an acknowledgement was lost. One by one they tell which.
func (s *streamSink) publishBatch(ctx context.Context, chunk []*Event) (whole bool, err error) {
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	limited, release := s.denials.during(limited, s.subject)
	defer release()
	messages := make([]*nats.Msg, len(chunk))
	for i, e := range chunk {
		messages[i] = s.message(e)
	}
	// The acknowledgement of the first message would cost a round trip and tells nothing that the last
	// one's does not.
	_, err = jetstreamext.PublishMsgBatch(limited, s.js, messages, jetstreamext.BatchFlowControl{AckFirst: false})
	var api *jetstream.APIError
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &api):
		switch api.ErrorCode {
		case errCodeAtomicPublishDisabled:
			s.note(batchesRefused)
		case errCodeAtomicPublishTooLarge:
			s.learn(len(chunk), api.Description)
			return false, errSmaller
		}
		return false, nil
	// An acknowledgement that is none of a batch is one of a server that does not know batches.
	case errors.Is(err, jetstreamext.ErrInvalidBatchAck):
		s.note(batchesRefused)
		return false, nil
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadHeaderMsg):
		return false, nil
	default:
		return false, s.explain(ctx, limited, messages[0], err)
	}
}

// Where the stream does not say whether it takes batches, since it has no leader or the user may not ask,
// events are not held up for it: they go one by one, and it is asked again after askAgain.
const (
	askWait  = time.Second
	askAgain = time.Minute
)

// takesBatches asks the stream once.
func (s *streamSink) takesBatches(ctx context.Context) bool {
	if b := atomicBatches(s.batches.Load()); b != batchesUnknown {
		return b == batchesAllowed
	}
	now, at := time.Now(), s.askAt.Load()
	if now.UnixNano() < at || !s.askAt.CompareAndSwap(at, now.Add(askAgain).UnixNano()) {
		return false
	}
	limited, cancel := context.WithTimeout(ctx, min(s.timeout, askWait))
	defer cancel()
	name, err := s.js.StreamNameBySubject(limited, s.subject)
	var stream jetstream.Stream
	if err == nil {
		stream, err = s.js.Stream(limited, name)
	}
	if err != nil {
		if ctx.Err() != nil {
			s.askAt.Store(0) // whoever delivers ended, and says nothing about the stream
		}
		return false
	}
	if !stream.CachedInfo().Config.AllowAtomicPublish {
		s.note(batchesRefused)
		return false
	}
	s.note(batchesAllowed)
	return true
}
