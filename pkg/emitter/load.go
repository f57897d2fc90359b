package emitter

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/kv"
)

// loaded is what the bucket has for a subscription.
type loaded struct {
	sub      *sub
	found    bool
	revision uint64
	point    Checkpoint
	odd      error           // the record can't be read
	answered bool            // its record was found, or the bucket's leader has none
	compared feed.Comparison // of its witness, where its epoch is another
	former   former
	other    other
}

// fewKeys is how many checkpoints are looked for one by one. For more the bucket's leader is asked which there are.
const fewKeys = 16

// load reads the checkpoints of subscriptions that are new to this leader.
func (l *leader) load(ctx context.Context) {
	if l.loading || len(l.unloaded) == 0 {
		return
	}
	got := make([]loaded, len(l.unloaded))
	for i, s := range l.unloaded {
		got[i].sub = s
	}
	l.unloaded, l.loading = nil, true
	in := present{l.history.epoch, l.history.former, l.reader, l.resets}
	l.work.Go(func() {
		defer l.inbox.call(func() { l.loading = false })
		for !l.loadAll(ctx, got, in) {
			select {
			case <-time.After(250 * time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
	})
}

// present is what checkpoints are held against: the history when they were read.
type present struct {
	epoch  string
	former map[string]feed.Comparison // not written to
	reader reader
	resets int
}

// loadAll reads a page at a time, hands over each that is complete, and reports whether all are. What was answered is not
// asked for again.
func (l *leader) loadAll(ctx context.Context, got []loaded, in present) (complete bool) {
	if err := l.absent(ctx, got); err != nil {
		l.log.Warn("checkpoints can't be read yet; nothing is sent to their subscriptions", "subscriptions", len(got), "error", err)
		return false
	}
	complete = true
	for page := range slices.Chunk(got, kv.MaxGetLast) {
		if page[0].sub == nil {
			continue // handed over before
		}
		err := readCheckpoints(ctx, l.points, page)
		if err == nil {
			err = l.inherit(ctx, page)
		}
		if err == nil {
			err = compareCheckpoints(ctx, in, page)
		}
		if err != nil {
			l.log.Warn("checkpoints can't be read yet; nothing is sent to their subscriptions", "subscriptions", len(page), "error", err)
			complete = false
			continue
		}
		done := slices.Clone(page)
		page[0].sub = nil
		l.inbox.call(func() { l.loaded(done, in.resets) })
	}
	return complete
}

// absent finds out in one request which of many have no checkpoint. A replica can't tell: it may be behind.
func (l *leader) absent(ctx context.Context, got []loaded) error {
	open := 0
	for i := range got {
		if !got[i].answered {
			open++
		}
	}
	if open <= fewKeys {
		return nil
	}
	there, err := l.points.Keys(ctx, l.store)
	if err != nil {
		return err
	}
	for i := range got {
		if s := got[i].sub; s != nil && !there[s.key] {
			got[i].answered = true
		}
	}
	return nil
}

// readCheckpoints asks any replica, and the leader about those that it does not show.
func readCheckpoints(ctx context.Context, points checkpoints, got []loaded) error {
	keys, at := make([]string, 0, len(got)), make(map[string]int, len(got))
	for i := range got {
		if key := got[i].sub.key; !got[i].answered {
			keys, at[key] = append(keys, key), i
		}
	}
	if len(keys) == 0 {
		return nil
	}
	if err := points.GetLast(ctx, keys, func(e kv.Entry) { got[at[e.Key]].read(&e) }); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fewKeys)
	for i := range got {
		if got[i].answered {
			continue
		}
		g.Go(func() error {
			e, ok, err := points.GetFromLeader(ctx, got[i].sub.key)
			if ok {
				got[i].read(&e)
			}
			got[i].answered = err == nil
			return err
		})
	}
	return g.Wait()
}

// compareCheckpoints finds out what checkpoints of other epochs have in common with the stream. Those that were written together
// have one witness.
func compareCheckpoints(ctx context.Context, in present, got []loaded) error {
	byWitness := map[string][]*loaded{}
	for i := range got {
		c := &got[i]
		compared, ok := in.former[c.point.Epoch]
		switch {
		case !c.found || c.point.Epoch == "" || c.point.Epoch == in.epoch:
		case ok:
			c.compared = compared
		case c.point.Witness != "":
			byWitness[c.point.Witness] = append(byWitness[c.point.Witness], c)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fewKeys)
	for witness, all := range byWitness {
		g.Go(func() error {
			compared, err := in.reader.Compare(ctx, parseWitness(witness))
			for _, c := range all {
				c.compared = compared
			}
			return err
		})
	}
	return g.Wait()
}

func (c *loaded) read(e *kv.Entry) {
	c.revision = e.Revision
	if e.Operation != kv.Put {
		return
	}
	if c.odd = json.Unmarshal(e.Data, &c.point); c.odd == nil {
		c.found, c.answered = true, true
	}
}

// isNews reports whether a checkpoint that was read is another than this leader knows: somebody wrote or deleted it. One that
// is missing without a trace was lost, and what is known stands for it.
func (l *leader) isNews(c *loaded) bool {
	own := c.found && c.point.Term == l.lease.Term() && c.point.Emitter == l.name
	return c.revision > c.sub.revision && !own && !c.sub.writing
}

func (l *leader) loaded(got []loaded, resets int) {
	now := time.Now()
	l.sayOthers(got)
	for _, c := range got {
		s := c.sub
		if resets != l.resets && s.phase == loading { // they were held against a history that is no more
			l.unloaded = append(l.unloaded, s)
			continue
		}
		if s.recorded && (s.phase != loading || !l.isNews(&c)) {
			if s.phase == loading {
				l.ask(s, now)
			}
			continue
		}
		if s.recorded { // somebody changed it since
			s.sender, s.recorded, s.durable = NewSender(0), false, false
			delete(l.dirty, s)
		}
		s.revision = c.revision
		if s.loss.gap = c.point.Gap; s.loss.gap != nil {
			l.gaps.news = true
		}
		at, counts := c.point.placeIn(l.history.epoch, c.compared, s.least())
		switch {
		case c.odd != nil:
			l.log.Error("a checkpoint can't be read; the position is the proxy's, or the start", "subscription", s.name, "error", c.odd)
		case c.found && counts:
			s.sender, s.recorded, s.durable = NewSender(at), true, true
		case c.found:
			// Of a stream that is no more: everything in this one is new.
			s.sender, s.recorded, s.durable = NewSender(s.least()), true, true
			s.loss.fresh = true
			l.voided++
		}
		if c.former.key != "" && s.recorded {
			s.former = c.former
			l.dirty[s] = struct{}{}
		}
		if s.phase == loading {
			l.ask(s, now)
		}
	}
}
