package emitter

import "time"

// dispatch shows an event to those that are attached to the segment.
func (c *catchUp) dispatch(t *segment, e *entry) {
	sequence, wanted := e.event.Sequence, 0
	c.groups = c.index.matching(&e.event, c.groups[:0])
	for _, g := range c.groups {
		wanted += len(g.subs)
	}
	e.alone = wanted == 1
	for _, g := range c.groups {
		for _, s := range g.subs {
			switch {
			case s.deferred && t == c.tail:
				c.sender.askAtOnce(s)
			case s.segment != t || s.pos >= sequence:
			case !s.hasRoom():
				s.full = true
				c.detach(s)
				s.pos = sequence - 1
			case !s.outlet.room():
				c.detach(s)
				s.pos = sequence - 1
				s.outlet.wait(s)
			default:
				c.sender.send(s, e)
			}
		}
	}
	if len(t.attached) > 0 {
		t.consumedTo = sequence
	}
}

// replay shows a subscription what the segment has after its position. It is attached then, unless its
// window is full before.
func (c *catchUp) replay(s *sub, t *segment) {
	for i := t.after(s.pos); i < len(t.events); i++ {
		e := t.events[i]
		if e.hole != nil {
			if !c.gaps.pass(s, e.hole) {
				c.gaps.stop(s, e.hole)
				return
			}
		} else if s.group.matches(e) {
			if !s.hasRoom() {
				s.full = true
				return
			}
			if !s.outlet.room() {
				s.outlet.wait(s)
				return
			}
			if e.given { // and wanted once more: it has to be read again
				t.forget(i)
				c.resume(s)
				return
			}
			if !c.sender.send(s, e) {
				return
			}
			t.emptyAt = time.Time{}
		}
		s.pos = e.event.Sequence
		t.consumedTo = max(t.consumedTo, s.pos)
	}
	s.pos = max(s.pos, t.high)
	t.consumedTo = max(t.consumedTo, t.high)
	s.segment, t.emptyAt = t, time.Time{}
	t.attached[s] = struct{}{}
}

// resume goes on with a subscription that is not attached: on a segment that has what it wants next, or it
// waits for one.
func (c *catchUp) resume(s *sub) {
	if s.phase != running || s.segment != nil || s.loss.stopped != nil || !s.hasRoom() {
		return
	}
	c.forget(s)
	if !s.outlet.room() {
		s.outlet.wait(s)
		return
	}
	if c.tail.has(s.pos) {
		c.replay(s, c.tail)
	} else if t := c.passAt(s.pos); t != nil {
		c.replay(s, t)
	} else {
		c.wait(s)
	}
}

// detach takes a subscription off its segment.
func (c *catchUp) detach(s *sub) {
	if s.segment != nil {
		delete(s.segment.attached, s)
		s.segment = nil
	}
	c.forget(s)
	s.loss.stopped = nil
}
