package feed_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/feed"
)

func TestStreamThatAnotherMakesIsWaitedFor(t *testing.T) {
	js := connect(t, runServer(t, t.TempDir(), -1))
	made := make(chan error, 1)
	go func() {
		time.Sleep(50 * time.Millisecond)
		_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S"})
		made <- err
	}()
	stream, err := feed.AwaitStream(t.Context(), js, "S")
	if err := errors.Join(err, <-made); err != nil || stream.CachedInfo().Config.Name != "S" {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := feed.AwaitStream(ctx, js, "T"); !errors.Is(err, jetstream.ErrStreamNotFound) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a stream that nobody makes: %v", err)
	}
}
