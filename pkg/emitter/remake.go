package emitter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"
)

const (
	// remakeAfter is how long the stream must be gone: whoever deletes it to restore a backup must find the
	// name free.
	remakeAfter  = 5 * time.Second
	absentAgain  = 3 * time.Second // looks further apart are of different absences
	remakeWithin = 5 * time.Second
)

// remaking makes a store's own stream again where it is gone. A stream that the user named is the user's to
// make: that it is gone is told as what keeps the store from being followed. It is safe for concurrent use.
type remaking struct {
	open  func(ctx context.Context) error // creates the stream where it is absent; nil: it is the user's
	busy  atomic.Bool
	fails rate.Sometimes

	mu          sync.Mutex
	since, last time.Time // of looks that found it gone
}

// due takes a look that found the stream gone, and reports whether it is to be made again.
func (r *remaking) due(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.last) > absentAgain {
		r.since = now
	}
	r.last = now
	return r.open != nil && now.Sub(r.since) >= remakeAfter
}

// stream makes it again beside the caller, one try at a time.
func (r *remaking) stream(l *leader) {
	if !r.due(time.Now()) || !r.busy.CompareAndSwap(false, true) {
		return
	}
	l.work.Go(func() {
		defer r.busy.Store(false)
		ctx, cancel := l.within(remakeWithin, 4)
		defer cancel()
		r.now(ctx, l)
	})
}

func (r *remaking) now(ctx context.Context, l *leader) {
	if err := r.open(ctx); err != nil {
		r.fails.Do(func() {
			l.log.Error("the store's stream is gone and can't be created anew yet", "stream", l.stream, "error", err)
		})
		return
	}
	l.log.Error("the store's stream was gone and is created anew", "stream", l.stream)
}

func isGone(err error) bool { return errors.Is(err, jetstream.ErrStreamNotFound) }

// streamInfo asks for the stream until it is there.
func (l *leader) streamInfo(ctx context.Context) (*jetstream.StreamInfo, error) {
	for {
		stream, err := l.js.Stream(ctx, l.stream)
		if err == nil {
			return stream.CachedInfo(), nil
		}
		if isGone(err) && l.remaking.due(time.Now()) {
			l.remaking.now(ctx, l)
		}
		l.looks.Do(func() { l.log.Warn("the store's stream can't be looked at yet", "stream", l.stream, "error", err) })
		l.reporter.tellTrouble(fmt.Sprintf("the emitter can't look at stream %s: %v", l.stream, err))
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
