package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// infoWait is how long to wait for a stream's info where nothing else can be done without it.
	infoWait = time.Second
	// leaderWait is how long to wait for one message from the leader; it is asked only when it has just
	// been heard of.
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
	stream string
	prefix string
}

func newAPI(js jetstream.JetStream, stream string) api {
	return api{js: js, nc: js.Conn(), stream: stream, prefix: Prefix(js)}
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
	ctx, cancel := context.WithTimeout(ctx, infoWait)
	defer cancel()
	m, err := a.nc.RequestWithContext(ctx, a.infoSubject(), nil)
	if err != nil {
		return nil, fmt.Errorf("stream info %s: %w", a.stream, err)
	}
	return decodeInfo(m)
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
	ctx, cancel := context.WithTimeout(ctx, leaderWait)
	defer cancel()
	req := getRequest{Seq: seq}
	if next {
		req.NextFor = ">"
	}
	return a.askLeader(ctx, req)
}

// page reads up to batch messages, of maxBytes in all (0: as the server limits it), from sequence from on.
func (a api) page(ctx context.Context, from uint64, batch, maxBytes int, wait time.Duration, each func(Message) bool) (more bool, err error) {
	return a.pageOf(ctx, getRequest{Seq: from, Batch: batch, MaxBytes: maxBytes}, batch, wait, each)
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

// pageOf reads what one direct get gives, at most room messages, and hands them to each until that returns
// false. It reports whether the replica that answered has more. Every answer names the sequence before it
// in the page, so one that was lost is noticed; wait bounds the time to each answer.
func (a api) pageOf(ctx context.Context, req getRequest, room int, wait time.Duration, each func(Message) bool) (more bool, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return false, err
	}
	answers := make(chan *nats.Msg, room+1) // all there can be, so none is dropped here
	inbox := a.nc.NewInbox()
	sub, err := a.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return false, fmt.Errorf("direct get %s: %w", a.stream, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is closed
	if err := a.nc.PublishRequest(a.prefix+"DIRECT.GET."+a.stream, inbox, body); err != nil {
		return false, fmt.Errorf("direct get %s: %w", a.stream, err)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var previous uint64
	for {
		var m *nats.Msg
		var open bool
		select {
		case m, open = <-answers:
		default:
			timer.Reset(wait)
			select {
			case m, open = <-answers:
			case <-timer.C:
				return false, fmt.Errorf("%w: none for %s after %d of %s", errTruncated, wait, previous, a.stream)
			case <-ctx.Done():
				return false, ctx.Err()
			}
		}
		if !open {
			return false, nats.ErrConnectionClosed
		}
		// A message may have been stored with a header Status and no data. An answer of the server's own
		// has nothing of a stream.
		if added(m.Header, jetstream.StreamHeader) == "" {
			return a.pageEnd(m, previous)
		}
		msg, ok := decode(m, a.stream)
		if !ok || msg.Sequence < req.Seq {
			return false, errOther
		}
		if added(m.Header, "Nats-Num-Pending") == "" { // a server before 2.11 answers with one message, without more ado
			return each(msg), nil
		}
		if lastOf(m) != previous || msg.Sequence <= previous {
			return false, errTruncated
		}
		previous = msg.Sequence
		if !each(msg) {
			return true, nil
		}
	}
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
