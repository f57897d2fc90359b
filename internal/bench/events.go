package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/pkg/event"
)

// An event's data begins with when it was written, by this process's clock, at a fixed place: reading it
// must not cost what is measured.
const (
	stampAt   = len(`{"at":`)
	stampSize = 19 // digits of nanoseconds since 1970, until the year 2286

	// LeastSize is the least size of an event's data.
	LeastSize = 100
)

// writer appends events to a store, as subproxy publish writes them, many at once.
type writer struct {
	js      jetstream.JetStream
	store   string
	types   []string // events take them in turn
	size    int      // of an event's data
	filling string
	written int
	failed  chan error // holds the first
}

func newWriter(nc *nats.Conn, store string, types, size int) (*writer, error) {
	w := &writer{store: store, size: size, failed: make(chan error, 1), filling: strings.Repeat("x", size)}
	for i := range types {
		w.types = append(w.types, eventType(i))
	}
	var err error
	w.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096), jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) {
		select {
		case w.failed <- err:
		default:
		}
	}))
	return w, err
}

func eventType(i int) string { return fmt.Sprintf("measured_%05d:v1", i) }

// next makes the next event's message.
func (w *writer) next() *nats.Msg {
	now := time.Now()
	i := w.written
	w.written++
	data := make([]byte, 0, w.size)
	data = append(data, `{"at":`...)
	data = strconv.AppendInt(data, now.UnixNano(), 10)
	data = append(data, `,"n":`...)
	data = strconv.AppendInt(data, int64(i), 10)
	data = append(data, `,"greenhouse":"greenhouse-`...)
	data = strconv.AppendInt(data, int64(i%100), 10)
	data = append(data, `","temperature":21.5,"note":"`...)
	data = append(data, w.filling[:max(w.size-len(data)-2, 0)]...)
	data = append(data, `"}`...)
	e := event.Event{
		Store: w.store, Stream: "greenhouse-" + strconv.Itoa(i%100), Type: w.types[i%len(w.types)], ID: nuid.Next(), Time: now,
		Source: "exesdb/" + w.store, Header: nats.Header{event.ContentTypeHeader: {"application/json"}}, Data: data,
	}
	m := e.Message(event.Subject(e.Store, e.Stream, e.Type))
	m.Header[jetstream.MsgIDHeader] = []string{e.ID}
	return m
}

// write sends one event and does not wait for it to be stored.
func (w *writer) write() error {
	_, err := w.js.PublishMsgAsync(w.next(), jetstream.WithStallWait(10*time.Second))
	return err
}

// stored waits until everything that was written is stored.
func (w *writer) stored(ctx context.Context) error {
	select {
	case <-w.js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-w.failed:
		return fmt.Errorf("append to %s: %w", w.store, err)
	default:
		return nil
	}
}

// fill writes n events and returns when all are stored.
func (w *writer) fill(ctx context.Context, n int) error {
	for range n {
		if err := w.write(); err != nil {
			return fmt.Errorf("append to %s: %w", w.store, err)
		}
	}
	return w.stored(ctx)
}

// writtenAt reads when an event was written.
func writtenAt(data []byte) (time.Time, error) {
	if len(data) < stampAt+stampSize {
		return time.Time{}, errors.New("an event without its time")
	}
	at, err := strconv.ParseInt(string(data[stampAt:stampAt+stampSize]), 10, 64)
	return time.Unix(0, at), err
}

// numberOf reads which of its writer's events it is, from 0.
func numberOf(data []byte) (int, error) {
	const key = `,"n":`
	if from := stampAt + stampSize + len(key); len(data) > from {
		digits, _, _ := bytes.Cut(data[from:], []byte(","))
		return strconv.Atoi(string(digits))
	}
	return 0, errors.New("an event without its number")
}

// createStore makes a store's stream, as the emitter would, and returns it.
func createStore(ctx context.Context, nc *nats.Conn, store string, replicas int) (jetstream.Stream, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	return connect.Ask(ctx, func(ctx context.Context) (jetstream.Stream, error) {
		return emitter.OpenStream(ctx, js, emitter.StreamConfig{Store: store, Replicas: replicas})
	})
}
