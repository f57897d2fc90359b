package deadletter_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/sink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a server and a connection to it, until the test ends.
type world struct {
	*testing.T
	ctx  context.Context
	node *natsnode.Node
	nc   *nats.Conn
	js   jetstream.JetStream
}

func start(t *testing.T, configure func(*server.Options)) *world {
	t.Helper()
	node, err := natsnode.Start(natsnode.Options{Configure: configure})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Shutdown)
	nc, err := nats.Connect(node.URL(), nats.ReconnectBufSize(-1), nats.UserInfo("subproxy", "subproxy"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return &world{t, ctx, node, nc, js}
}

// sink makes one of these tests' sinks; nothing in them waits longer for what comes.
func (w *world) sink(kind sink.Kind, subject string) sink.Sink {
	w.Helper()
	s, err := sink.New(w.js, sink.Config{Kind: kind, Subject: subject, Timeout: 10 * time.Second})
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func (w *world) stream(c jetstream.StreamConfig) jetstream.Stream {
	w.Helper()
	c.Storage = jetstream.MemoryStorage
	s, err := w.js.CreateStream(w.ctx, c)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// stored is how many messages a stream holds.
func (w *world) stored(stream string) uint64 {
	w.Helper()
	s, err := w.js.Stream(w.ctx, stream)
	if err != nil {
		w.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func (w *world) subscribe(subject string) *nats.Subscription {
	w.Helper()
	sub, err := w.nc.SubscribeSync(subject)
	if err != nil {
		w.Fatal(err)
	}
	return sub
}

func (w *world) next(sub *nats.Subscription) *nats.Msg {
	w.Helper()
	m, err := sub.NextMsgWithContext(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	return m
}

// replies makes a subscriber that answers every event with what reply makes of it.
func (w *world) replies(subject string, reply func(*nats.Msg) *nats.Msg) {
	w.Helper()
	if _, err := w.nc.Subscribe(subject, func(m *nats.Msg) { _ = m.RespondMsg(reply(m)) }); err != nil {
		w.Fatal(err)
	}
}

func newEvent(sequence uint64, data string) *sink.Event {
	return &sink.Event{Store: "green house", Subscription: "to.pubsub", Sequence: sequence, Incarnation: 3, Message: &nats.Msg{
		Reply: "the.emitter", Data: []byte(data),
		Header: nats.Header{event.IDHeader: {"id-1"}, event.TypeHeader: {"initialized:v1"}, event.SubjectHeader: {"greenhouse.1"}, "traceparent": {"00-1-2-01"}},
	}}
}

// refused tells whether the event is to blame, and if so whether for good.
func refused(err error) (reason string, final, ok bool) {
	var r *sink.RefusedError
	if errors.As(err, &r) {
		return r.Reason, r.Final, true
	}
	return "", false, false
}
