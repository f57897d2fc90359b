package demo

import "time"

// pace finds the longest pause in something that should come at a steady rate.
type pace struct {
	every   time.Duration // how far apart they come when nothing is wrong
	last    time.Time
	since   time.Time // what came before does not count
	longest time.Duration
}

// reset begins to measure. The gap that is open counts, from its beginning.
func (p *pace) reset(now time.Time) { p.since, p.longest = now, 0 }

// came notes that one came.
func (p *pace) came(at time.Time) {
	if !p.last.IsZero() && at.After(p.since) {
		p.longest = max(p.longest, at.Sub(p.last))
	}
	if at.After(p.last) {
		p.last = at
	}
}

// pause is the longest gap that closed since the reset, beyond the usual one.
func (p *pace) pause() time.Duration { return max(0, p.longest-p.every) }
