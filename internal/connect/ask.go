package connect

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// askPatience is how long one request to JetStream waits: what is answered at all is answered within
	// milliseconds, and some requests to a cluster that is just electing its leaders are never.
	askPatience = 2 * time.Second
	// askLongest is how long a request is made again where the caller says no time.
	askLongest = 30 * time.Second
)

// Ask makes a request to JetStream, and makes it again where no answer comes, until ctx ends. So it must
// mean the same when it is made twice, as creating a stream does.
func Ask[T any](ctx context.Context, request func(context.Context) (T, error)) (T, error) {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askLongest)
		defer cancel()
	}
	for {
		attempt, cancel := context.WithTimeout(ctx, askPatience)
		answer, err := request(attempt)
		cancel()
		unanswered := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout)
		if !unanswered || ctx.Err() != nil {
			return answer, err
		}
	}
}
