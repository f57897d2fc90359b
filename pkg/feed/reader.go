package feed

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrNothing is returned by Reader.Read where the stream's leader has no message from there on. A leader that was deposed
// and does not know it yet can say so too; ask again before believing it.
var ErrNothing = errNothing

// Reader reads a stream from a sequence on, as a Feed reads what it missed: pages by direct get, and one message from the
// leader where the replica that answers has no more. The package comment's argument holds for it: what it does not show
// between two messages was gone when it read. It is safe for concurrent use.
type Reader struct {
	api       api
	direct    bool
	keeps     bool // whatever is consumed
	since     time.Time
	consumers allowance // of stretches
}

// NewReader makes a reader of the stream that the info is of. A stream that does not allow direct get is read message by
// message from its leader, which is some twenty times slower.
func NewReader(js jetstream.JetStream, info *jetstream.StreamInfo) *Reader {
	return &Reader{
		api: newAPI(js, info.Config.Name), direct: info.Config.AllowDirect, keeps: info.Config.Retention == jetstream.LimitsPolicy, since: info.Created,
	}
}

// Read returns up to batch messages, and about maxBytes at the most, from the sequence on: at least one, or an error.
func (r *Reader) Read(ctx context.Context, from uint64, batch, maxBytes int) ([]Message, error) {
	var messages []Message
	if r.direct {
		messages = make([]Message, 0, batch)
		_, err := r.api.page(ctx, from, batch, maxBytes, fillWait, func(m Message) bool {
			if m.Time.Before(r.since) { // of a deleted stream of the same name; only the leader is believed
				return false
			}
			messages = append(messages, m)
			return ctx.Err() == nil
		})
		switch {
		case len(messages) > 0: // what came before a failure is good
			return messages, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil && !errors.Is(err, errOther):
			return nil, fmt.Errorf("read %s from %d: %w", r.api.stream, from, err)
		}
	}
	m, err := r.api.leaderGet(ctx, from, true)
	if err != nil {
		return nil, err
	}
	return append(messages, m), nil
}

// Last returns the sequence of the stream's last message, as its leader has it.
func (r *Reader) Last(ctx context.Context) (uint64, error) {
	info, err := r.api.info(ctx)
	if err != nil {
		return 0, err
	}
	return info.State.LastSeq, nil
}
