package cluster

import (
	"strings"

	"github.com/exesdb/subproxy/pkg/registry"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// leaderPrefix begins the keys of leases.
const leaderPrefix = "leader."

// entries passes on what the feed shows of some keys.
type entries struct {
	entry  func(registry.Entry)
	voided func() // the bucket is another one; may be nil
}

// heard implements watcher.
func (f entries) heard(in input) {
	switch {
	case in.kind == heard:
		f.entry(in.entry)
	case in.kind == voided && f.voided != nil:
		f.voided()
	}
}

// Watch passes on what the feed shows of keys that begin with the prefix, one token and its dot, from the beginning of the feed on. It
// must be called before Run; the functions are called from the feed's goroutine and must not block. Voided says that the bucket is another
// one, or went back: what was shown of it does not count.
func (f *Follower) Watch(prefix string, entry func(registry.Entry), voided func()) error {
	return f.watchAll(prefix, entries{entry, voided})
}

// WatchLeases passes on each lease as it is written or renewed, from the beginning of the feed on. It must be called before Run; the
// function is called from the feed's goroutine and must not block. What is no lease is passed over.
func (f *Follower) WatchLeases(renewed func(Record)) error {
	return f.watchAll(leaderPrefix, entries{entry: func(e registry.Entry) {
		store, err := subscription.DecodeToken(strings.TrimPrefix(e.Key, leaderPrefix))
		if err != nil || e.Operation != registry.Put {
			return
		}
		if r, err := decodeRecord(store, e.Data); err == nil {
			renewed(r)
		}
	}})
}
