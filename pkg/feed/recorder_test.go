package feed_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/feed"
)

// recorder is a Handler that remembers the messages since the last reset, and what broke the promise.
type recorder struct {
	mu     sync.Mutex
	seen   []feed.Message
	at     []time.Time
	levels []uint64
	resets []error
	broken error
	block  chan struct{} // if set, Message waits for it
}

func (r *recorder) Message(m feed.Message) {
	if r.block != nil {
		<-r.block
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.seen); n > 0 && r.seen[n-1].Sequence >= m.Sequence {
		r.broken = fmt.Errorf("%d after %d", m.Sequence, r.seen[n-1].Sequence)
	}
	r.seen, r.at = append(r.seen, m), append(r.at, time.Now())
}

func (r *recorder) Level(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.levels = append(r.levels, seq)
}

func (r *recorder) Reset(reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resets = append(r.resets, reason)
	r.seen, r.at, r.levels = nil, nil, nil
}

func (r *recorder) data() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]string, len(r.seen))
	for i, m := range r.seen {
		out[i] = string(m.Data)
	}
	return out
}

func (r *recorder) messages() []feed.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]feed.Message(nil), r.seen...)
}

func (r *recorder) times() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]time.Time(nil), r.at...)
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

func (r *recorder) level(seq uint64) func() bool {
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.levels) == 1 && r.levels[0] == seq
	}
}

func (r *recorder) wasReset(reason error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.resets) > 0 && errors.Is(r.resets[len(r.resets)-1], reason)
}

func (r *recorder) check(t testing.TB) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		t.Errorf("out of order: %v", r.broken)
	}
}
