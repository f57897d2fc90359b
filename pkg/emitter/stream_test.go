package emitter

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func startJetStream(t *testing.T) (context.Context, jetstream.JetStream) {
	t.Helper()
	node, err := natsnode.Start(natsnode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Shutdown)
	nc, err := nats.Connect(node.URL())
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
	return ctx, js
}

func TestAppendKeepsVersionsAndIDs(t *testing.T) {
	ctx, js := startJetStream(t)
	for range 2 { // the second time it is there
		if _, err := OpenStream(ctx, js, StreamConfig{Store: "green house"}); err != nil {
			t.Fatal(err)
		}
	}
	appendOne := func(stream, eventType, id string, expected int64) (uint64, error) {
		return Append(ctx, js, &event.Event{Store: "green house", Stream: stream, Type: eventType, ID: id, Time: time.Now(), Data: []byte("{}")}, expected)
	}
	first, err := appendOne("g.1", "initialized:v1", "a", 0)
	if err != nil || first != 1 {
		t.Fatalf("%d, %v", first, err)
	}
	if _, err := appendOne("g.1", "renamed:v1", "b", 0); !errors.Is(err, ErrWrongVersion) {
		t.Errorf("a stream id that has an event, expected to have none: %v", err)
	}
	if n, err := appendOne("g.2", "initialized:v1", "c", 0); err != nil || n != 2 {
		t.Errorf("another stream id: %d, %v", n, err)
	}
	if n, err := appendOne("g.1", "renamed:v1", "d", int64(first)); err != nil || n != 3 {
		t.Errorf("the version that is there: %d, %v", n, err)
	}
	if n, err := appendOne("g.1", "renamed:v1", "d", AnyVersion); err != nil || n != 3 {
		t.Errorf("the same id again: %d, %v", n, err)
	}
}

func TestStoredEventIsRepublishedAndReadBackAsItWas(t *testing.T) {
	ctx, js := startJetStream(t)
	if _, err := OpenStream(ctx, js, StreamConfig{Store: "s", Memory: true}); err != nil {
		t.Fatal(err)
	}
	live, err := js.Conn().SubscribeSync(StoredSubject + "s.>")
	if err != nil {
		t.Fatal(err)
	}
	e := event.Event{Store: "s", Stream: "g.1", Type: "t:v1", ID: "x", Source: "me", Time: time.Now(), Header: nats.Header{"traceparent": {"00-1-2-01"}}, Data: []byte("data")}
	if _, err := Append(ctx, js, &e, AnyVersion); err != nil {
		t.Fatal(err)
	}
	m, err := live.NextMsgWithContext(ctx)
	if err != nil {
		t.Fatal(err)
	}
	back, err := event.FromMessage("s", m.Header.Get("Nats-Subject"), 1, time.Now(), m.Header, m.Data)
	if err != nil || back.Stream != e.Stream || back.Type != e.Type || back.ID != e.ID || !back.Time.Equal(e.Time) || m.Header.Get("traceparent") == "" {
		t.Errorf("%+v became %+v, %v", e, back, err)
	}
}
