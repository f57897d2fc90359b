package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// Direct reads what a stream holds, by direct get, which any replica answers, and from the stream's leader
// where something else answered: nats-server 2.15 lets every mirror answer for its origin, also one that is
// filtered, or far behind. What a mirror gives names the mirror, and is not used. That a mirror has nothing
// looks like any such answer; so what only a replica said to be missing may be there (Last, LastOf). A
// message with a header Status, and no data, is a message here. It is safe for concurrent use.
type Direct struct {
	api api
}

// NewDirect makes one. The stream need not exist.
func NewDirect(js jetstream.JetStream, stream string) Direct { return Direct{newAPI(js, stream)} }

const (
	// directWait is how long whoever answers may take for each answer; a caller who has less patience says so
	// by context.
	directWait = 5 * time.Second
	// leaderAtOnce is how many requests to a leader are under way together.
	leaderAtOnce = 64
)

// Get returns the message at a sequence, as the leader has it, or ErrNothing.
func (d Direct) Get(ctx context.Context, seq uint64) (Message, error) {
	if seq == 0 {
		return Message{}, errNothing
	}
	return d.api.askLeader(ctx, getRequest{Seq: seq}, directWait)
}

// Next returns the first message at or after a sequence whose subject matches the filter (empty: any), as
// the leader has it, or ErrNothing.
func (d Direct) Next(ctx context.Context, seq uint64, filter string) (Message, error) {
	if filter == "" {
		filter = ">"
	}
	return d.api.askLeader(ctx, getRequest{Seq: max(seq, 1), NextFor: filter}, directWait)
}

// LeaderLast returns the last message of a subject, as the leader has it, or ErrNothing.
func (d Direct) LeaderLast(ctx context.Context, subject string) (Message, error) {
	return d.api.askLeader(ctx, getRequest{LastFor: subject}, directWait)
}

// Last returns the last message of a subject that a replica has. ErrNothing is the replica's word, or a
// mirror's.
func (d Direct) Last(ctx context.Context, subject string) (Message, error) {
	m, err := d.api.link.Request(ctx, d.api.prefix+"DIRECT.GET."+d.api.stream+"."+subject, nil, directWait)
	switch {
	case errors.Is(err, nats.ErrNoResponders): // or a message that nats.go takes for that
		return d.LeaderLast(ctx, subject)
	case err != nil:
		return Message{}, fmt.Errorf("direct get %s: %w", d.api.stream, err)
	}
	if msg, ok := decode(m, d.api.stream); ok {
		return msg, nil
	}
	if added(m.Header, jetstream.StreamHeader) == "" && m.Header.Get("Status") == "404" {
		return Message{}, errNothing
	}
	return d.LeaderLast(ctx, subject)
}

// LastOf reads the last message of each subject in one request, and calls found for each that there is.
// What a replica does not show may be there: ask the leader. A failure can come after some were found.
func (d Direct) LastOf(ctx context.Context, subjects []string, found func(Message)) error {
	if len(subjects) == 0 {
		return nil
	}
	seen := make([]string, 0, len(subjects))
	more, err := d.api.page(ctx, getRequest{MultiLast: subjects}, len(subjects), directWait, func(m Message) bool {
		seen = append(seen, m.Subject)
		found(m)
		return ctx.Err() == nil
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil && !more:
		return nil
	case err != nil && !errors.Is(err, errOther):
		return err
	}
	slices.Sort(seen)
	rest := make([]string, 0, len(subjects)-len(seen))
	for _, s := range subjects {
		if _, shown := slices.BinarySearch(seen, s); !shown {
			rest = append(rest, s)
		}
	}
	return d.LeaderLastOf(ctx, rest, found)
}

// LeaderLastOf is LastOf, as the leader has it: a request for each subject, many at once.
func (d Direct) LeaderLastOf(ctx context.Context, subjects []string, found func(Message)) error {
	messages := make([]*Message, len(subjects))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(leaderAtOnce)
	for i, s := range subjects {
		g.Go(func() error {
			m, err := d.LeaderLast(ctx, s)
			if errors.Is(err, errNothing) {
				return nil
			}
			messages[i] = &m
			return err
		})
	}
	err := g.Wait()
	for _, m := range messages {
		if m != nil && m.Sequence > 0 {
			found(*m)
		}
	}
	return err
}

// Page returns up to batch messages, and about maxBytes at the most (0: as many as the server gives), from
// the sequence on, with subjects that match the filter (empty: all): at least one, or an error. That there
// is none is the leader's word (ErrNothing).
func (d Direct) Page(ctx context.Context, from uint64, filter string, batch, maxBytes int) ([]Message, error) {
	messages := make([]Message, 0, batch)
	_, err := d.api.page(ctx, getRequest{Seq: from, NextFor: filter, Batch: batch, MaxBytes: maxBytes}, batch, directWait, func(m Message) bool {
		messages = append(messages, m)
		return ctx.Err() == nil
	})
	switch {
	case len(messages) > 0: // what came before a failure is good
		return messages, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil && !errors.Is(err, errOther) && !errors.Is(err, nats.ErrNoResponders):
		return nil, fmt.Errorf("read %s from %d: %w", d.api.stream, from, err)
	}
	m, err := d.Next(ctx, from, filter)
	if err != nil {
		return nil, err
	}
	return append(messages, m), nil
}

// askLeader makes one request for one message, for which the leader may take that long.
func (a api) askLeader(ctx context.Context, req getRequest, wait time.Duration) (Message, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return Message{}, err
	}
	m, err := a.link.Request(ctx, a.prefix+"STREAM.MSG.GET."+a.stream, body, wait)
	if err != nil {
		return Message{}, fmt.Errorf("get a message of %s from the leader: %w", a.stream, err)
	}
	var resp struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	switch err := json.Unmarshal(m.Data, &resp); {
	case err != nil:
		return Message{}, fmt.Errorf("get a message of %s from the leader: %w", a.stream, err)
	case resp.Error != nil && resp.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return Message{}, errNothing
	case resp.Error != nil:
		return Message{}, fmt.Errorf("get a message of %s from the leader: %w", a.stream, resp.Error)
	case resp.Message == nil || resp.Message.Sequence < req.Seq:
		return Message{}, jetstream.ErrInvalidJetStreamResponse
	}
	out := Message{Subject: resp.Message.Subject, Sequence: resp.Message.Sequence, Time: resp.Message.Time, Data: resp.Message.Data}
	if len(resp.Message.Header) > 0 {
		if out.Header, err = nats.DecodeHeadersMsg(resp.Message.Header); err != nil {
			return Message{}, fmt.Errorf("get a message of %s from the leader: %w", a.stream, err)
		}
	}
	return out, nil
}
