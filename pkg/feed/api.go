package feed

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/link"
)

const (
	// infoWait is how long the leader may take for a stream's info where nothing else can be done without
	// it. It and the others are time for whoever answers; the way there and back is added (link.Patience).
	infoWait = time.Second
	// leaderWait is how long the leader may take for one message; it is asked only when it has just been
	// heard of.
	leaderWait = 250 * time.Millisecond
)

var (
	// errTruncated: answers to a direct get were lost. Those before are good.
	errTruncated = errors.New("direct get: answers missing")
	// errNothing: the leader has no message from there on.
	errNothing = errors.New("no message found")
	// errOther: the direct get was answered by something other than the stream itself, such as a mirror,
	// which may be filtered and proves nothing.
	errOther = errors.New("direct get: not answered by the stream")
)

// api makes the requests that nats.go has no call for: its Stream.GetMsg goes to any replica if the stream
// allows direct get, where the leader is meant here; and its Info waits, where here the answer comes as an
// event.
type api struct {
	js     jetstream.JetStream
	nc     *nats.Conn
	link   *link.Link
	size   *messageSize
	stream string
	prefix string
}

func newAPI(js jetstream.JetStream, stream string) api {
	return api{js: js, nc: js.Conn(), link: link.Of(js.Conn()), size: &messageSize{}, stream: stream, prefix: Prefix(js)}
}

// Prefix is what the subjects of all requests to that JetStream begin with: $JS.API., or what its domain or
// API prefix has in place of it.
func Prefix(js jetstream.JetStream) string {
	switch opts := js.Options(); {
	case opts.APIPrefix != "":
		return strings.TrimSuffix(opts.APIPrefix, ".") + "."
	case opts.Domain != "":
		return "$JS." + opts.Domain + ".API."
	default:
		return jetstream.DefaultAPIPrefix
	}
}

func (a api) infoSubject() string { return a.prefix + "STREAM.INFO." + a.stream }

// info asks for the stream's info, which only its leader answers.
func (a api) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	m, err := a.link.Request(ctx, a.infoSubject(), nil, infoWait)
	if err != nil {
		return nil, fmt.Errorf("stream info %s: %w", a.stream, err)
	}
	return decodeInfo(m)
}

// Domain is the JetStream domain that has the stream; empty where it has no name.
func Domain(ctx context.Context, js jetstream.JetStream, stream string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, infoWait)
	defer cancel()
	a := newAPI(js, stream)
	m, err := a.nc.RequestWithContext(ctx, a.infoSubject(), nil)
	if err != nil {
		return "", fmt.Errorf("stream info %s: %w", stream, err)
	}
	if _, err := decodeInfo(m); err != nil {
		return "", err
	}
	var info struct { // which jetstream.StreamInfo leaves out
		Domain string `json:"domain"`
	}
	err = json.Unmarshal(m.Data, &info)
	return info.Domain, err
}

func decodeInfo(m *nats.Msg) (*jetstream.StreamInfo, error) {
	var resp struct {
		Error *jetstream.APIError `json:"error"`
		*jetstream.StreamInfo
	}
	switch {
	case len(m.Data) == 0 && m.Header.Get("Status") != "":
		return nil, nats.ErrNoResponders
	case json.Unmarshal(m.Data, &resp) != nil:
		return nil, jetstream.ErrInvalidJetStreamResponse
	case resp.Error != nil && resp.Error.ErrorCode == jetstream.JSErrCodeStreamNotFound:
		return nil, jetstream.ErrStreamNotFound
	case resp.Error != nil:
		return nil, resp.Error
	case resp.StreamInfo == nil:
		return nil, jetstream.ErrInvalidJetStreamResponse
	}
	return resp.StreamInfo, nil
}

// getRequest is of a direct get, or to the leader, which knows neither MultiLast nor batches.
type getRequest struct {
	Seq       uint64   `json:"seq,omitempty"`
	NextFor   string   `json:"next_by_subj,omitempty"`
	LastFor   string   `json:"last_by_subj,omitempty"`
	MultiLast []string `json:"multi_last,omitempty"`
	Batch     int      `json:"batch,omitempty"`
	MaxBytes  int      `json:"max_bytes,omitempty"`
}

// leaderGet returns the message at seq from the stream's leader; with next, the first one at or after seq.
func (a api) leaderGet(ctx context.Context, seq uint64, next bool) (Message, error) {
	req := getRequest{Seq: seq}
	if next {
		req.NextFor = ">"
	}
	return a.askLeader(ctx, req, leaderWait)
}

// lookup asks the leader.
func (a api) lookup(ctx context.Context) lookup {
	return func(seq uint64, next bool) (Witness, bool, error) {
		m, err := a.leaderGet(ctx, seq, next)
		if errors.Is(err, errNothing) {
			return Witness{}, false, nil
		}
		return m.witness(), err == nil, err
	}
}

// ends are the first and the last message of a stream, as far as they are there.
func (a api) ends(ctx context.Context, info *jetstream.StreamInfo) (ends []Witness, err error) {
	if info.State.Msgs == 0 {
		return nil, nil
	}
	for _, seq := range []uint64{info.State.FirstSeq, info.State.LastSeq} {
		m, ok, err := a.lookup(ctx)(seq, false)
		if err != nil {
			return ends, err
		}
		if ok {
			ends = append(ends, m)
		}
	}
	return ends, nil
}

// page reads what one direct get gives, at most room messages, and hands them to each until that returns
// false. It reports whether the replica that answered has more. Every answer names the sequence before it
// in the page, so one that was lost is noticed; wait is what the replica may take for each of them.
//
// What is to arrive is within the budget of the connection, where the request says how many bytes it wants.
// It may get fewer, but one message at the least.
func (a api) page(ctx context.Context, req getRequest, room int, wait time.Duration, each func(Message) bool) (more bool, err error) {
	if req.MaxBytes == 0 {
		return a.granted(ctx, nil, req, room, wait, each)
	}
	grant, err := a.link.Take(ctx, a.size.of(room, req.MaxBytes))
	if err != nil {
		return false, err
	}
	return a.granted(ctx, grant, req, room, wait, each)
}

// granted is page with a grant; nil: none is needed.
func (a api) granted(ctx context.Context, grant *link.Grant, req getRequest, room int, wait time.Duration, each func(Message) bool) (more bool, err error) {
	if grant != nil {
		req.MaxBytes = grant.Bytes
	}
	arrived, more, err := a.readPage(ctx, req, room, wait, each)
	if arrived.messages > 0 {
		a.size.observe(arrived.bytes / arrived.messages)
	}
	switch {
	case grant == nil:
	case arrived.all:
		grant.Arrived(arrived.bytes)
	default:
		grant.Abandon()
	}
	return more, err
}

// arrival is what has arrived of a page.
type arrival struct {
	messages, bytes int
	all             bool
}

func (a api) readPage(ctx context.Context, req getRequest, room int, wait time.Duration, each func(Message) bool) (got arrival, more bool, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return got, false, err
	}
	answers := make(chan *nats.Msg, room+1) // all there can be, so none is dropped here
	inbox := a.nc.NewInbox()
	sub, err := a.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return got, false, fmt.Errorf("direct get %s: %w", a.stream, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is closed
	if err := a.nc.PublishRequest(a.prefix+"DIRECT.GET."+a.stream, inbox, body); err != nil {
		return got, false, fmt.Errorf("direct get %s: %w", a.stream, err)
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var previous uint64
	for {
		m, err := a.receive(ctx, answers, timer, wait)
		switch {
		case errors.Is(err, errUnheard):
			return got, false, fmt.Errorf("%w: none for %s after %d of %s", errTruncated, wait, previous, a.stream)
		case err != nil:
			return got, false, err
		}
		got.bytes += m.Size()
		// A message may have been stored with a header Status and no data. An answer of the server's own
		// has nothing of a stream.
		if added(m.Header, jetstream.StreamHeader) == "" {
			more, err = a.pageEnd(m, previous)
			got.all = true
			return got, more, err
		}
		msg, ok := decode(m, a.stream)
		if !ok || msg.Sequence < req.Seq {
			return got, false, errOther
		}
		if added(m.Header, "Nats-Num-Pending") == "" { // a server before 2.11 answers with one message, without more ado
			got.all = true
			return got, each(msg), nil
		}
		if lastOf(m) != previous || msg.Sequence <= previous {
			return got, false, errTruncated
		}
		previous = msg.Sequence
		got.messages++
		if !each(msg) {
			return got, true, nil
		}
	}
}

// errUnheard: nothing came for as long as whoever is to send it may take.
var errUnheard = errors.New("nothing was heard")

// receive waits for the next of the answers, for which whoever sends it may take that long. It gives up where
// the server has answered a PING after that, and there is no answer still: until then one may be on its way,
// behind others or large.
func (a api) receive(ctx context.Context, answers <-chan *nats.Msg, timer *time.Timer, wait time.Duration) (m *nats.Msg, err error) {
	var open bool
	select {
	case m, open = <-answers:
	default:
		timer.Reset(a.link.Patience(wait))
		select {
		case m, open = <-answers:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
			if err := a.link.Settle(ctx); err != nil {
				return nil, cmp.Or(ctx.Err(), err)
			}
			select {
			case m, open = <-answers:
			default:
				return nil, errUnheard
			}
		}
	}
	if !open {
		return nil, nats.ErrConnectionClosed
	}
	return m, nil
}

// pageEnd reads the server's own answer to a direct get, which ends it.
func (a api) pageEnd(m *nats.Msg, previous uint64) (more bool, err error) {
	switch status := m.Header.Get("Status"); {
	case status == "" || len(m.Data) > 0:
		return false, errOther
	case status == "204" && lastOf(m) != previous:
		return false, errTruncated
	case status == "204":
		return m.Header.Get("Nats-Num-Pending") != "0", nil
	case status == "404":
		return false, nil
	case status == "503":
		return false, fmt.Errorf("direct get %s: %w", a.stream, nats.ErrNoResponders)
	default:
		return false, fmt.Errorf("direct get %s: %s %s", a.stream, status, m.Header.Get("Description"))
	}
}

func lastOf(m *nats.Msg) uint64 {
	seq, err := strconv.ParseUint(added(m.Header, jetstream.LastSequenceHeader), 10, 64)
	if err != nil {
		return ^uint64(0)
	}
	return seq
}
