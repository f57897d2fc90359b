package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/registry"
)

// Follower follows the cluster bucket for all elections, the session and the membership of a process.
type Follower struct {
	bucket *registry.Registry
	feed   *feed.Feed

	mu       sync.RWMutex
	watchers map[string][]watcher // by key, or by the first token of keys with its dot
	begun    bool                 // Run was called: what the bucket held may have been told already
}

// watcher is told of its keys, from the feed's goroutine, and does not block.
type watcher interface{ heard(input) }

// NewFollower makes a follower of a bucket opened with registry.Cluster. It sends nothing; the logger may be nil.
func NewFollower(js jetstream.JetStream, bucket *registry.Registry, logger *slog.Logger) (*Follower, error) {
	f := &Follower{bucket: bucket, watchers: make(map[string][]watcher)}
	var err error
	f.feed, err = feed.New(js, feed.Config{
		Stream: bucket.Stream(), StartSeq: 1, Handler: (*dispatch)(f), Logger: logger,
		First: func(revision uint64) { f.tell(input{kind: trimmed, revision: revision}) },
	})
	if err != nil {
		return nil, fmt.Errorf("follow bucket %s: %w", bucket.Bucket(), err)
	}
	return f, nil
}

// Run follows the bucket until ctx ends. Elections and sessions run without it too, more slowly.
func (f *Follower) Run(ctx context.Context) error {
	f.mu.Lock()
	f.begun = true
	f.mu.Unlock()
	return f.feed.Run(ctx)
}

// watchAll watches every key that begins with the prefix, one token and its dot, from the beginning of the feed on.
func (f *Follower) watchAll(prefix string, w watcher) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.begun {
		return fmt.Errorf("%w: its follower runs already", ErrMembership)
	}
	f.watchers[prefix] = append(f.watchers[prefix], w)
	return nil
}

func (f *Follower) watch(key string, w watcher) (stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers[key] = append(f.watchers[key], w)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		var others []watcher
		for _, other := range f.watchers[key] {
			if other != w {
				others = append(others, other)
			}
		}
		if f.watchers[key] = others; others == nil {
			delete(f.watchers, key)
		}
	}
}

// tell tells every watcher.
func (f *Follower) tell(in input) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, watchers := range f.watchers {
		for _, w := range watchers {
			w.heard(in)
		}
	}
}

// dispatch is the Follower as the feed's handler.
type dispatch Follower

// Message implements feed.Handler.
func (d *dispatch) Message(m feed.Message) {
	e := d.bucket.NewEntry(m.Subject, m.Sequence, m.Header, m.Data, m.Time)
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, key := range [...]string{e.Key, e.Key[:strings.IndexByte(e.Key, '.')+1]} {
		for _, w := range d.watchers[key] {
			w.heard(input{kind: heard, entry: e})
		}
	}
}

// Level implements feed.Handler.
func (d *dispatch) Level(uint64) { (*Follower)(d).tell(input{kind: level}) }

// Reset implements feed.Handler.
func (d *dispatch) Reset(error) { (*Follower)(d).tell(input{kind: voided}) }
