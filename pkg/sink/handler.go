package sink

import (
	"context"
	"errors"

	"github.com/exesdb/subproxy/pkg/event"
)

// HandlerFunc is a sink in Go. Its error refuses the event, unless it wraps ErrUnavailable or
// ErrSuperseded, or ctx has ended; a *RefusedError in it is taken as it is. An event that can't be read as
// one is refused for good. Others may hold the event's data too: it must not be changed. A proxy that stops
// waits for the function, which should heed ctx.
type HandlerFunc func(ctx context.Context, e *event.Event) error

// Deliver implements Sink.
func (f HandlerFunc) Deliver(ctx context.Context, e *Event) error {
	parsed, err := e.Parsed()
	if err != nil {
		return &RefusedError{Reason: err.Error(), Final: true, Err: err}
	}
	err = f(ctx, parsed)
	var refused *RefusedError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil, errors.Is(err, ErrUnavailable), errors.Is(err, ErrSuperseded):
		return err
	case errors.As(err, &refused):
		return refused
	default:
		return &RefusedError{Reason: err.Error(), Err: err}
	}
}
