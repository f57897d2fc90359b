package emitter

import (
	"context"
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
)

// eventSender sends to proxies. It must not wait.
type eventSender interface {
	// send sends an event to a subscription. It reports false where the subscription no longer runs.
	send(s *sub, e *entry) bool
	// askAtOnce asks a proxy whose question was deferred: there is something to send to it.
	askAtOnce(s *sub)
}

// eventReader reads the store's stream for passes. It must not wait.
type eventReader interface {
	// entryOf reads a message of the stream; nil where it is no event.
	entryOf(m feed.Message) *entry
	// read begins to read what follows a pass; what came of it is told to page.
	read(t *segment)
}

// catchUp is who is shown which events: the tail, to which those are attached that have everything, and
// passes, which read old events for the others. It starts no goroutine, asks no clock, and knows no NATS.
//
// Invariant: a subscription that runs, has room for an event and is attached to no segment waits here. What
// is attached is attached to the tail or to one of these passes. So where anybody waits, somebody reads, or
// a pass begins as soon as there may be another.
type catchUp struct {
	sender  eventSender
	reader  eventReader
	index   index
	groups  []*group      // that want the event in hand
	tail    *segment      // nil until the end of the stream is known
	first   uint64        // of the stream's messages, as far as is known
	way     time.Duration // of an event to the proxy that is the furthest away, and of its acknowledgement
	gaps    gaps
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

// begin begins a pass where the one furthest behind is. Those further on get on when it comes by. It is nil
// where nobody waits, or there are passes enough.
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

// appetite is how many events the subscription has room for, of those that are shown the pass or wait for it,
// that has the most.
func (c *catchUp) appetite(t *segment) (most int) {
	for s := range t.attached {
		most = max(most, s.window-s.sender.InFlight())
	}
	for s := range c.waiting {
		if s.pos <= t.high && t.has(s.pos) {
			most = max(most, s.window-s.sender.InFlight())
		}
	}
	return most
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

// over notes that the stream has nothing between the segment's end and a sequence, and shows that to those
// that are attached.
func (c *catchUp) over(t *segment, to uint64) {
	if to <= t.high {
		return
	}
	h := &hole{span: span{t.high + 1, to}}
	if c.first > to { // known already
		c.judged(h, c.first)
	} else {
		c.gaps.open = append(c.gaps.open, h)
	}
	t.add(&entry{event: event.Event{Sequence: to}, hole: h, size: holeBytes})
	for s := range t.attached {
		if s.pos < to && !c.gaps.pass(s, h) {
			at := max(s.pos, h.from-1)
			c.detach(s)
			s.pos = at
			c.gaps.stop(s, h)
		}
	}
	if len(t.attached) > 0 {
		t.consumedTo = to
	}
}

func (c *catchUp) judged(h *hole, first uint64) {
	h.judge(first)
	c.gaps.metrics.Holes.WithLabelValues(c.gaps.store).Add(float64(h.to - h.gone))
	for _, p := range h.passed {
		if h.gone >= p.from && p.sub.phase != absent {
			c.gaps.lose(p.sub, span{p.from, h.gone})
		}
	}
	for _, s := range h.waiting {
		// By now the segment may have forgotten it. The next one has a hole of its own there, of which
		// nothing is to be asked again.
		if s.loss.stopped == h && c.gaps.pass(s, h) {
			s.loss.stopped = nil
			c.gaps.clear(s, h.span)
			c.resume(s)
		} else if s.loss.stopped == h {
			c.gaps.stop(s, h)
		}
	}
	h.passed, h.waiting = nil, nil
}

// skipGaps moves checkpoints over what is gone, so that the next leader does not find it once more.
func (c *catchUp) skipGaps() {
	for s := range c.gaps.over {
		at := s.pos
		if s.segment != nil {
			at = max(at, s.segment.high)
		}
		switch {
		case s.sender.Acked >= s.loss.passed:
		case s.phase == running && s.sender.Idle() && at >= s.loss.passed:
			s.sender.Skip(s.loss.passed)
			c.gaps.checkpoints.mark(s)
		case s.phase != absent:
			continue
		}
		delete(c.gaps.over, s)
	}
}

// skip moves checkpoints over what their subscriptions do not want.
func (c *catchUp) skip(least uint64) {
	for s := range c.tail.attached {
		if s.sender.Idle() && c.tail.high > s.sender.Acked+least {
			s.sender.Skip(c.tail.high)
			c.gaps.checkpoints.mark(s)
		}
	}
}
