package connect

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/natsnode"
)

// TestRequestThatIsNeverAnsweredIsMadeAgain has a responder in place of JetStream, which answers the second
// request only.
func TestRequestThatIsNeverAnsweredIsMadeAgain(t *testing.T) {
	t.Parallel()
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
	js, err := jetstream.NewWithAPIPrefix(nc, "FAKE.API")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	if _, err := nc.Subscribe("FAKE.API.STREAM.CREATE.X", func(m *nats.Msg) {
		if asked.Add(1) == 2 {
			_ = m.Respond([]byte(`{"type":"io.nats.jetstream.api.v1.stream_create_response","config":{"name":"X"},"state":{}}`))
		}
	}); err != nil {
		t.Fatal(err)
	}
	create := func(ctx context.Context) (jetstream.Stream, error) {
		return js.CreateStream(ctx, jetstream.StreamConfig{Name: "X"})
	}
	began := time.Now()
	if _, err := Ask(t.Context(), create); err != nil || asked.Load() != 2 || time.Since(began) > 10*time.Second {
		t.Errorf("%v after %d requests in %v", err, asked.Load(), time.Since(began))
	}
	ended, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Ask(ended, create); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("where nothing answers in time: %v", err)
	}
	refused := errors.New("refused")
	if _, err := Ask(t.Context(), func(context.Context) (int, error) { return 0, refused }); !errors.Is(err, refused) {
		t.Errorf("what is answered is not asked again: %v", err)
	}
}
