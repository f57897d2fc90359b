package feed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/link"
)

// ErrNothing is returned by Reader.Read where the stream's leader has no message from there on. A leader
// that was deposed and does not know it yet can say so too; ask again before believing it.
var ErrNothing = errNothing

// Reader reads a stream from a sequence on, as a Feed reads what it missed: pages by direct get, and one
// message from the leader where the replica that answers has no more. The package comment's argument holds
// for it: what it does not show between two messages was gone when it read. It is safe for concurrent use.
type Reader struct {
	api       api
	direct    bool
	keeps     bool // whatever is consumed
	created   time.Time
	consumers consumerLimit // of bulk readers
}

// NewReader makes a reader of the stream that the info is of. A stream that does not allow direct get is
// read message by message from its leader, which is some twenty times slower.
func NewReader(js jetstream.JetStream, info *jetstream.StreamInfo) *Reader {
	r := &Reader{
		api: newAPI(js, info.Config.Name), direct: info.Config.AllowDirect, keeps: info.Config.Retention == jetstream.LimitsPolicy, created: info.Created,
	}
	if n := info.State.Msgs; n > 0 {
		r.api.size.observe(int(info.State.Bytes / n))
	}
	return r
}

// Read returns up to batch messages, and about maxBytes at the most, from the sequence on: at least one, or
// an error.
func (r *Reader) Read(ctx context.Context, from uint64, batch, maxBytes int) ([]Message, error) {
	var grant *link.Grant
	if r.direct {
		var err error
		if grant, err = r.api.link.Take(ctx, r.api.size.of(batch, maxBytes)); err != nil {
			return nil, err
		}
	}
	return r.read(ctx, grant, from, batch)
}

// read is Read with a grant, where direct get may be used.
func (r *Reader) read(ctx context.Context, grant *link.Grant, from uint64, batch int) ([]Message, error) {
	var messages []Message
	if r.direct {
		messages = make([]Message, 0, batch)
		_, err := r.api.granted(ctx, grant, getRequest{Seq: from, Batch: batch}, batch, answering.First, func(m Message) bool {
			messages = append(messages, m)
			return ctx.Err() == nil
		})
		messages, old := r.believed(ctx, messages)
		switch {
		case len(messages) > 0: // what came before a failure is good
			return messages, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case old != nil:
			return nil, old
		case err != nil && !errors.Is(err, errOther) && !errors.Is(err, nats.ErrNoResponders): // it may have been switched off since
			return nil, fmt.Errorf("read %s from %d: %w", r.api.stream, from, err)
		}
	}
	m, err := r.api.leaderGet(ctx, from, true)
	if err != nil {
		return nil, err
	}
	return append(messages, m), nil
}

// believed returns those of a page that are the stream's. Messages older than it may be of a deleted stream
// of the same name, so the leader is asked for the last one of them: a page is of one copy, and with that
// message all before it are the leader's.
func (r *Reader) believed(ctx context.Context, page []Message) ([]Message, error) {
	old := func(m Message) bool { return m.Time.Before(r.created) }
	first := slices.IndexFunc(page, old)
	if first < 0 {
		return page, nil
	}
	last := len(page) - 1
	for !old(page[last]) {
		last--
	}
	m, err := r.api.leaderGet(ctx, page[last].Sequence, false)
	switch {
	case err == nil && m.witness().is(page[last].witness()):
		return page, nil
	case err != nil && !errors.Is(err, errNothing):
		return page[:first], fmt.Errorf("read %s: %w", r.api.stream, err)
	}
	return page[:first], nil
}

// Compare finds out what the stream has in common with one that had the witnesses, which are in ascending
// order. Anything but Same is said only where the leader says it twice, 200 ms apart: one that was deposed
// may lag.
func (r *Reader) Compare(ctx context.Context, known []Witness) (Comparison, error) {
	var before *Comparison
	for {
		info, err := r.api.info(ctx)
		if err != nil {
			return Comparison{}, err
		}
		c, err := compare(known, extent{info.State.FirstSeq, info.State.LastSeq}, r.api.lookup(ctx))
		if err != nil || c.Kinship == Same || len(known) == 0 || before != nil && *before == c {
			return c, err
		}
		before = &c
		if backoff.Sleep(ctx, behindFor) != nil {
			return Comparison{}, ctx.Err()
		}
	}
}

// First returns the sequence of the stream's first message, as its leader has it: one more than the last
// where there is none.
func (r *Reader) First(ctx context.Context) (uint64, error) {
	info, err := r.api.info(ctx)
	if err != nil {
		return 0, err
	}
	return info.State.FirstSeq, nil
}

// Last returns the sequence of the stream's last message, as its leader has it.
func (r *Reader) Last(ctx context.Context) (uint64, error) {
	info, err := r.api.info(ctx)
	if err != nil {
		return 0, err
	}
	return info.State.LastSeq, nil
}
