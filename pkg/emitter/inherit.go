package emitter

import (
	"context"
	"encoding/json"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// former is the checkpoint of a subscription under another spelling of its selector: other white space or
// order in its JSON, as a version of before, or somebody else's program, wrote it into the key.
type former struct {
	key      string
	revision uint64
}

// inherit finds the places of subscriptions that have no checkpoint under their key, and one under another
// spelling of it. Of several the one that was written last is where the subscription is. A checkpoint that
// was deleted by hand is no such one: the subscription is to begin anew.
//
// Where the name has a checkpoint that is another subscription's, with another type or selector, it is said
// where the new one begins.
func (p *savedPlaces) inherit(ctx context.Context, keys map[string]bool, got []loaded) (err error) {
	byName := map[string][]*loaded{}
	for i := range got {
		if c := &got[i]; c.revision == 0 && c.odd == nil {
			byName[c.sub.name] = append(byName[c.sub.name], c)
		}
	}
	if len(byName) == 0 {
		return nil
	}
	if keys == nil {
		if keys, err = p.bucket.Keys(ctx, p.store); err != nil {
			return err
		}
	}
	for key := range keys {
		was, err := subscription.ParseKey(key)
		if err != nil || len(byName[was.Name]) == 0 {
			continue
		}
		e, ok, err := p.bucket.GetFromLeader(ctx, key)
		if err != nil {
			return err
		}
		var point Checkpoint
		if !ok || e.Operation != kv.Put || json.Unmarshal(e.Data, &point) != nil {
			continue
		}
		for _, c := range byName[was.Name] {
			c.compare(was, key, e.Revision, point)
		}
	}
	return nil
}

// compare looks whether the checkpoint under a key is the subscription's own, or another's of its name.
func (c *loaded) compare(was subscription.Subscription, key string, revision uint64, point Checkpoint) {
	is, err := subscription.ParseKey(c.sub.key)
	switch {
	case err != nil || key == c.sub.key:
	case !is.SameAs(was):
		if point.Sequence >= c.other.sequence {
			c.other = other{key, point.Sequence}
		}
	case revision > c.former.revision:
		c.found, c.point, c.former = true, point, former{key, revision}
	}
}

// other is a checkpoint of another subscription that had the name before.
type other struct {
	key      string
	sequence uint64
}
