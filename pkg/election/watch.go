package election

import (
	"strings"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Watch passes on each lease of a leader as it is written or renewed, from the beginning of the feed on. It
// must be called before the follower runs; the function is called from the feed's goroutine and must not
// block. What is no lease is passed over.
func Watch(f *lease.Follower, renewed func(LeaderRecord)) error {
	return f.WatchEntries(leaderPrefix, func(e kv.Entry) {
		store, err := subscription.DecodeToken(strings.TrimPrefix(e.Key, leaderPrefix))
		if err != nil || e.Operation != kv.Put {
			return
		}
		if r, err := decodeLeader(store, e.Data); err == nil {
			renewed(r)
		}
	}, nil)
}
