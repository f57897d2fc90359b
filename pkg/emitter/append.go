package emitter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
)

// Errors of Append.
var (
	// ErrWrongVersion is returned where a stream id is not at the version that an append expects.
	ErrWrongVersion = errors.New("wrong expected version")
	// ErrOtherEvent is returned where another event was stored under the id within the duplicate window:
	// nothing was stored.
	ErrOtherEvent = errors.New("the id is that of another event")
)

// AnyVersion is the expected version of an append that expects nothing.
const AnyVersion = -1

// Append stores an event and returns its sequence in the store. Expected, unless it is AnyVersion, is the
// store's sequence of the stream id's last event, 0 where there must be none; otherwise the error is
// ErrWrongVersion.
//
// The event's id makes the append idempotent within the stream's duplicate window: the same event again is
// not stored, and its first sequence is returned. With an expected version it is idempotent for as long as
// the event is there, on any number of replicas. (A stream of one replica looks at the version before it
// looks at the id, one of three at the id first.)
func Append(ctx context.Context, js jetstream.JetStream, e *event.Event, expected int64) (sequence uint64, err error) {
	m := e.Message(event.Subject(e.Store, e.Stream, e.Type))
	m.Header[jetstream.MsgIDHeader] = []string{e.ID}
	if expected != AnyVersion {
		m.Header[jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatInt(expected, 10)}
		m.Header[jetstream.ExpectedLastSubjSeqSubjHeader] = []string{event.StreamSubjects(e.Store, e.Stream)}
	}
	ack, err := js.PublishMsg(ctx, m)
	var api *jetstream.APIError
	switch {
	case err == nil && !ack.Duplicate:
		return ack.Sequence, nil
	case err == nil:
		err = isStored(ctx, js, ack.Stream, ack.Sequence, m)
		sequence = ack.Sequence
	case errors.As(err, &api) && isWrongVersion(api):
		sequence, err = storedAfter(ctx, js, uint64(expected), m)
		if sequence == 0 && err == nil {
			err = fmt.Errorf("%w: not at %d", ErrWrongVersion, expected)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("append to %s/%s: %w", e.Store, e.Stream, err)
	}
	return sequence, nil
}

func isWrongVersion(err *jetstream.APIError) bool {
	return err.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || err.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant
}

// isStored looks whether what the server takes for a duplicate is one. A message that is gone by now is
// taken for the event.
func isStored(ctx context.Context, js jetstream.JetStream, stream string, sequence uint64, m *nats.Msg) error {
	id := m.Header.Get(jetstream.MsgIDHeader)
	there, err := feed.NewDirect(js, stream).Get(ctx, sequence)
	switch {
	case errors.Is(err, feed.ErrNothing):
		return nil
	case err != nil:
		return fmt.Errorf("look whether %q, which the server has at sequence %d, is this event: %w", id, sequence, err)
	case !isSame(&there, m):
		return fmt.Errorf("%w: %q is at sequence %d, on %s; nothing was stored now, choose another id", ErrOtherEvent, id, sequence, there.Subject)
	}
	return nil
}

// storedAfter returns the sequence of the event where it is the one that follows the expected one in its
// stream id: an append of it that succeeded before moved the version on. 0: it is another.
func storedAfter(ctx context.Context, js jetstream.JetStream, expected uint64, m *nats.Msg) (uint64, error) {
	stream, err := js.StreamNameBySubject(ctx, m.Subject)
	if err != nil {
		return 0, fmt.Errorf("look for the stream of %s: %w", m.Subject, err)
	}
	subjects := m.Header.Get(jetstream.ExpectedLastSubjSeqSubjHeader)
	there, err := feed.NewDirect(js, stream).Next(ctx, expected+1, subjects)
	switch {
	case errors.Is(err, feed.ErrNothing):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("look at what follows %d of %s: %w", expected, subjects, err)
	case isSame(&there, m):
		return there.Sequence, nil
	}
	return 0, nil
}

// isSame reports whether a stored message is the event that the other one would store. The time is when an
// append was tried.
func isSame(there *feed.Message, m *nats.Msg) bool {
	return there.Subject == m.Subject && there.Header.Get(jetstream.MsgIDHeader) == m.Header.Get(jetstream.MsgIDHeader) && bytes.Equal(there.Data, m.Data)
}
