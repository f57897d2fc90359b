package feed

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/backoff"
)

// madeWithin bounds how long a stream whose name is taken may not be found.
const madeWithin = 5 * time.Second

// AwaitStream opens a stream that another client is making. In a cluster its name is refused to others from
// the moment on that it was asked for, and it is found only when its leader runs.
func AwaitStream(ctx context.Context, js jetstream.JetStream, name string) (jetstream.Stream, error) {
	for deadline := time.Now().Add(madeWithin); ; {
		stream, err := js.Stream(ctx, name)
		if !errors.Is(err, jetstream.ErrStreamNotFound) || time.Now().After(deadline) {
			return stream, err
		}
		if backoff.Sleep(ctx, 20*time.Millisecond) != nil {
			return nil, err
		}
	}
}
