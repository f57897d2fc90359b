package sink

import (
	"context"
	"errors"
	"sync"
)

// ErrDenied is matched by the errors of events that the server did not let through, since the user may not
// publish on the subject.
var ErrDenied = errors.New("not permitted")

// deniedError has the reason's words alone.
type deniedError struct{ reason error }

func (e *deniedError) Error() string        { return e.reason.Error() }
func (e *deniedError) Is(target error) bool { return target == ErrDenied }
func (e *deniedError) Unwrap() error        { return e.reason }

// Denials end the wait of request and stream sinks for an answer to what the server did not let through: it
// tells the connection's error handler, and not whoever sent it. Nil is one that is told nothing.
type Denials struct {
	mu      sync.Mutex
	waiting map[string]map[*context.CancelCauseFunc]struct{} // by subject
	were    map[string]bool                                  // subjects of sinks that were refused
}

// Report takes a subject that the connection's error handler says is refused, and the reason to give.
func (d *Denials) Report(subject string, reason error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for cancel := range d.waiting[subject] {
		(*cancel)(&deniedError{reason})
		if d.were == nil {
			d.were = map[string]bool{}
		}
		d.were[subject] = true
	}
}

// Concern reports whether a subject that was refused is one that sinks send on.
func (d *Denials) Concern(subject string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.were[subject]
}

// during returns a context that ends with a *deniedError when the subject is refused. It must be released.
func (d *Denials) during(ctx context.Context, subject string) (_ context.Context, release func()) {
	if d == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting == nil {
		d.waiting = map[string]map[*context.CancelCauseFunc]struct{}{}
	}
	if d.waiting[subject] == nil {
		d.waiting[subject] = map[*context.CancelCauseFunc]struct{}{}
	}
	d.waiting[subject][&cancel] = struct{}{}
	return ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if delete(d.waiting[subject], &cancel); len(d.waiting[subject]) == 0 {
			delete(d.waiting, subject)
		}
		cancel(nil)
	}
}

// denied is the *deniedError that ended a context, or nil.
func denied(ctx context.Context) error {
	var denied *deniedError
	if errors.As(context.Cause(ctx), &denied) {
		return denied
	}
	return nil
}
