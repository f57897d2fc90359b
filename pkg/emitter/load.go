package emitter

import (
	"context"
	"encoding/json"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/exesdb/subproxy/pkg/registry"
)

// loaded is what the bucket has for a subscription.
type loaded struct {
	sub      *sub
	found    bool
	revision uint64
	point    Checkpoint
	odd      error // the record can't be read
}

// load reads the checkpoints of subscriptions that are new to this leader.
func (l *leader) load(ctx context.Context) {
	if l.loading || len(l.unloaded) == 0 {
		return
	}
	n := min(len(l.unloaded), registry.MaxGetLast)
	batch := make([]*sub, n)
	copy(batch, l.unloaded)
	l.unloaded, l.loading = l.unloaded[n:], true
	l.work.Go(func() {
		for {
			got, err := readCheckpoints(ctx, l.points, batch)
			if err == nil {
				l.inbox.call(func() { l.loaded(got) })
				return
			}
			// Without its checkpoint nothing must be sent to anybody.
			l.log.Warn("checkpoints can't be read yet", "subscriptions", len(batch), "error", err)
			select {
			case <-time.After(250 * time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
	})
}

// readCheckpoints asks any replica, and the leader about those that it does not show: it may only be behind.
func readCheckpoints(ctx context.Context, points Checkpoints, batch []*sub) ([]loaded, error) {
	got, keys, at := make([]loaded, len(batch)), make([]string, len(batch)), make(map[string]int, len(batch))
	for i, s := range batch {
		got[i].sub, keys[i], at[s.key] = s, s.key, i
	}
	if err := points.GetLast(ctx, keys, func(e registry.Entry) { got[at[e.Key]].read(&e) }); err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range got {
		if got[i].found {
			continue
		}
		g.Go(func() error {
			e, ok, err := points.GetFromLeader(ctx, got[i].sub.key)
			if ok {
				got[i].read(&e)
			}
			return err
		})
	}
	return got, g.Wait()
}

func (c *loaded) read(e *registry.Entry) {
	c.revision = e.Revision
	if e.Operation != registry.Put {
		return
	}
	if c.odd = json.Unmarshal(e.Data, &c.point); c.odd == nil {
		c.found = true
	}
}

// isNews reports whether a checkpoint that was read is another than this leader knows: somebody wrote or deleted it. One that
// is missing without a trace was lost, and what is known stands for it.
func (l *leader) isNews(c *loaded) bool {
	own := c.found && c.point.Term == l.lease.Term() && c.point.Emitter == l.name
	return c.revision > c.sub.revision && !own && !c.sub.writing
}

func (l *leader) loaded(got []loaded) {
	l.loading = false
	now := time.Now()
	for _, c := range got {
		s := c.sub
		if s.recorded && (s.phase != loading || !l.isNews(&c)) {
			if s.phase == loading {
				l.ask(s, now)
			}
			continue
		}
		if s.recorded { // somebody changed it since
			s.sender, s.recorded, s.durable, s.stored = NewSender(0), false, false, 0
			delete(l.dirty, s)
		}
		s.revision = c.revision
		switch {
		case c.odd != nil:
			l.log.Error("a checkpoint can't be read; the position is the proxy's, or the start", "subscription", s.name, "error", c.odd)
		case c.found && ofStream(c.point.Epoch, l.created):
			s.sender, s.recorded, s.stored, s.durable = NewSender(c.point.Sequence), true, c.point.Sequence, true
		case c.found && c.point.Epoch != "":
			// Of a stream that is no more: everything in this one is new.
			s.sender, s.recorded, s.durable = NewSender(s.least()), true, true
			l.voided++
		case c.found: // written by somebody else's emitter, or by hand
			s.sender, s.recorded, s.stored, s.durable = NewSender(c.point.Sequence), true, c.point.Sequence, true
		}
		if s.phase == loading {
			l.ask(s, now)
		}
	}
}
