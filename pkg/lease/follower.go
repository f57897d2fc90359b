package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/kv"
)

// ErrFollowing is returned where a prefix is watched after the follower began to run: what the bucket held
// may have been told already.
var ErrFollowing = errors.New("the follower runs already")

// Follower follows the cluster bucket for all elections, the session and the membership of a process.
type Follower struct {
	bucket *kv.Bucket
	feed   *feed.Feed

	mu       sync.RWMutex
	watchers map[string][]Watcher // by key, or by the first token of keys with its dot
	begun    bool                 // Run was called
}

// Watcher hears of its keys, from the feed's goroutine, and must not block.
type Watcher interface{ Hear(Input) }

// NewFollower makes a follower of a bucket opened with kv.Cluster. It sends nothing; the logger may be nil.
func NewFollower(js jetstream.JetStream, bucket *kv.Bucket, logger *slog.Logger) (*Follower, error) {
	f := &Follower{bucket: bucket, watchers: make(map[string][]Watcher)}
	var err error
	f.feed, err = feed.New(js, feed.Config{
		Stream: bucket.Stream(), StartSeq: 1, Handler: (*dispatch)(f), Logger: logger,
		First: func(revision uint64) { f.broadcast(Input{Kind: KeysTrimmed, Revision: revision}) },
	})
	if err != nil {
		return nil, fmt.Errorf("follow bucket %s: %w", bucket.Name(), err)
	}
	return f, nil
}

// Patience is how long to wait for the bucket where it may take up to work to answer.
func (f *Follower) Patience(work time.Duration) time.Duration { return f.bucket.Patience(work) }

// Run follows the bucket until ctx ends. Elections and sessions run without it too, more slowly.
func (f *Follower) Run(ctx context.Context) error {
	f.mu.Lock()
	f.begun = true
	f.mu.Unlock()
	return f.feed.Run(ctx)
}

// WatchAll watches every key that begins with the prefix, one token and its dot, from the beginning of the
// feed on. It must be called before Run, else it returns ErrFollowing.
func (f *Follower) WatchAll(prefix string, w Watcher) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.begun {
		return fmt.Errorf("watch %s*: %w", prefix, ErrFollowing)
	}
	f.watchers[prefix] = append(f.watchers[prefix], w)
	return nil
}

// Watch watches one key, from now on.
func (f *Follower) Watch(key string, w Watcher) (stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers[key] = append(f.watchers[key], w)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		var others []Watcher
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

// WatchEntries passes on what the feed shows of keys that begin with the prefix, as WatchAll does. The
// functions are called from the feed's goroutine and must not block. Replaced may be nil; it says that the
// bucket is another one, or went back: what was shown of it does not count.
func (f *Follower) WatchEntries(prefix string, entry func(kv.Entry), replaced func()) error {
	return f.WatchAll(prefix, &entries{entry, replaced})
}

// entries passes on what the feed shows of some keys.
type entries struct {
	entry    func(kv.Entry)
	replaced func()
}

// Hear implements Watcher.
func (w *entries) Hear(in Input) {
	switch {
	case in.Kind == EntryHeard:
		w.entry(in.Entry)
	case in.Kind == BucketReplaced && w.replaced != nil:
		w.replaced()
	}
}

// broadcast passes an input on to every watcher.
func (f *Follower) broadcast(in Input) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, watchers := range f.watchers {
		for _, w := range watchers {
			w.Hear(in)
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
			w.Hear(Input{Kind: EntryHeard, Entry: e})
		}
	}
}

// Level implements feed.Handler.
func (d *dispatch) Level(uint64) { (*Follower)(d).broadcast(Input{Kind: FeedLevel}) }

// Reset implements feed.Handler.
func (d *dispatch) Reset(error) { (*Follower)(d).broadcast(Input{Kind: BucketReplaced}) }
