package emitter

import (
	"context"
	"slices"
)

// catchUp is the subscriptions that are behind what is in memory, and the passes that read old events for them.
//
// Invariant: a subscription that runs, has room for an event and is attached to no segment waits here. What is attached is attached to the tail or to one
// of these passes. So where anybody waits, somebody reads, or a pass begins as soon as there may be another.
type catchUp struct {
	passes  []*segment
	waiting map[*sub]struct{} // have room, and no segment has what they want next
}

// wait notes that no segment has what the subscription wants next.
func (c *catchUp) wait(s *sub) {
	if c.waiting == nil {
		c.waiting = map[*sub]struct{}{}
	}
	c.waiting[s] = struct{}{}
}

// waits reports whether the subscription waits for a pass.
func (c *catchUp) waits(s *sub) bool {
	_, waits := c.waiting[s]
	return waits
}

// forget is for a subscription that is served, or is no longer to be.
func (c *catchUp) forget(s *sub) { delete(c.waiting, s) }

// begin begins a pass where the one furthest behind is. Those further on get on when it comes by. It is nil where nobody waits, or
// there are passes enough.
func (c *catchUp) begin(ctx context.Context) *segment {
	if len(c.waiting) == 0 || len(c.passes) >= maxPasses {
		return nil
	}
	at := ^uint64(0)
	for s := range c.waiting {
		at = min(at, s.pos)
	}
	t := newSegment(at)
	t.ctx, t.end = context.WithCancel(ctx)
	c.passes = append(c.passes, t)
	return t
}

// isShort reports whether somebody waits, and no pass may begin before another ends.
func (c *catchUp) isShort() bool { return len(c.waiting) > 0 && len(c.passes) >= maxPasses }

// passAt is a pass that has all that comes after a position, or reads it next; nil where there is none.
func (c *catchUp) passAt(pos uint64) *segment {
	for _, t := range c.passes {
		if t.has(pos) && pos <= t.high {
			return t
		}
	}
	return nil
}

// goesOn reports whether the pass was not ended.
func (c *catchUp) goesOn(t *segment) bool { return slices.Contains(c.passes, t) }

// end ends a pass. The subscriptions that were attached to it wait for another.
func (c *catchUp) end(t *segment) {
	c.passes = slices.DeleteFunc(c.passes, func(other *segment) bool { return other == t })
	t.end()
	for s := range t.attached {
		t.detach(s)
		c.wait(s)
	}
}
