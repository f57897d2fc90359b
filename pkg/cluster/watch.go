package cluster

import (
	"strings"

	"github.com/exesdb/subproxy/pkg/registry"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// leaderPrefix begins the keys of leases.
const leaderPrefix = "leader."

// entries passes on what the feed shows of some keys.
type entries func(registry.Entry)

// heard implements watcher.
func (f entries) heard(in input) {
	if in.kind == heard {
		f(in.entry)
	}
}

// WatchLeases passes on each lease as it is written or renewed, from the beginning of the feed on. It must be called before Run; the
// function is called from the feed's goroutine and must not block. What is no lease is passed over.
func (f *Follower) WatchLeases(renewed func(Record)) error {
	return f.watchAll(leaderPrefix, entries(func(e registry.Entry) {
		store, err := subscription.DecodeToken(strings.TrimPrefix(e.Key, leaderPrefix))
		if err != nil || e.Operation != registry.Put {
			return
		}
		if r, err := decodeRecord(store, e.Data); err == nil {
			renewed(r)
		}
	}))
}
