package emitter

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// former is the checkpoint of a subscription under another spelling of its selector: other white space or order in its JSON, as a
// version of before, or somebody else's program, wrote it into the key.
type former struct {
	key      string
	revision uint64
}

// inherit finds the places of subscriptions that have no checkpoint under their key, and one under another spelling of it. Of several
// the one that was written last is where the subscription is. A checkpoint that was deleted by hand is no such one: the subscription is to
// begin anew.
//
// Where the name has a checkpoint that is another subscription's, with another type or selector, it is said where the new one begins.
func (l *leader) inherit(ctx context.Context, got []loaded) error {
	byName := map[string][]*loaded{}
	for i := range got {
		if c := &got[i]; c.revision == 0 && c.odd == nil {
			byName[c.sub.name] = append(byName[c.sub.name], c)
		}
	}
	if len(byName) == 0 {
		return nil
	}
	keys, err := l.points.Keys(ctx, l.store)
	if err != nil {
		return err
	}
	for key := range keys {
		was, err := subscription.ParseKey(key)
		if err != nil || len(byName[was.Name]) == 0 {
			continue
		}
		e, ok, err := l.points.GetFromLeader(ctx, key)
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

// sayOthers says of subscriptions that are others than those which had their names before where they begin.
func (l *leader) sayOthers(got []loaded) {
	n := 0
	var first *loaded
	for i := range got {
		if c := &got[i]; c.other.key != "" && !c.found {
			if n++; first == nil {
				first = c
			}
		}
	}
	if n > 0 {
		l.log.Warn("another type or selector is another subscription: it begins where its start_version says, and the checkpoint of before stays; subproxy checkpoints lists and drops these",
			"subscriptions", n, "first", first.sub.name, "begins_at", first.sub.registration.StartVersion, "before", first.other.key, "sequence_before", first.other.sequence)
	}
}

// dropFormer deletes the checkpoint that another has taken the place of, unless a subscription is registered under its key.
func (l *leader) dropFormer(s *sub) {
	was := s.former
	s.former = former{}
	if other := l.subs[was.key]; was.key == "" || other != nil && other.phase != absent {
		return
	}
	l.log.Info("a subscription goes on under another spelling of its selector", "subscription", s.name, "key", s.key, "before", was.key, "sequence", s.sender.Acked)
	l.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), checkpointIO)
		defer cancel()
		r := l.points.Put(ctx, []kv.Write{{Key: was.key, Revision: was.revision}})[0]
		if r.Err != nil && !errors.Is(r.Err, kv.ErrConflict) {
			l.log.Warn("a checkpoint that is no longer needed could not be deleted; subproxy checkpoints drop does", "key", was.key, "error", r.Err)
		}
	})
}
