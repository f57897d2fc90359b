package emitter

import (
	"context"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

const (
	// judgeAgain is the least time between two questions where the stream begins: one whose subjects are limited is full of holes.
	judgeAgain = 50 * time.Millisecond
	// gapToldFor is how long a gap is told that a subscription went over.
	gapToldFor = time.Hour
	// gapsLoggedAgain is how long the log says nothing of more gaps.
	gapsLoggedAgain = time.Minute
)

// span is sequences of the stream, both ends included; the zero value has none.
type span struct{ from, to uint64 }

func (s span) events() uint64 {
	if s.to < s.from || s.to == 0 {
		return 0
	}
	return s.to - s.from + 1
}

func (s span) has(o span) bool { return o.from >= s.from && o.to <= s.to }

func (s span) and(o span) span { return span{max(s.from, o.from), min(s.to, o.to)} }

// with is both, where they touch, else the other.
func (s span) with(o span) span {
	if s.events() == 0 || o.from > s.to+1 || o.to+1 < s.from {
		return o
	}
	return span{min(s.from, o.from), max(s.to, o.to)}
}

// hole is a span of sequences that the stream did not show to whoever read on behind it. What of it lies before the stream's first
// message was removed by a limit or a purge; the rest was deleted on purpose, or dropped by a limit per subject: nobody can tell.
type hole struct {
	span
	judged bool
	gone   uint64 // the last sequence before the stream's first message, where that is in the hole; else from-1

	passed  []passage // before it was judged
	waiting []*sub    // until it is judged
}

// passage is a subscription that went over a hole, of which it did not have the part from a sequence on.
type passage struct {
	sub  *sub
	from uint64
}

// judge says what of the hole is gone, by the sequence of the stream's first message. It was looked up after the hole was seen.
func (h *hole) judge(first uint64) {
	h.judged, h.gone = true, h.from-1
	if first > h.from {
		h.gone = min(first-1, h.to)
	}
}

// gaps are the holes that were met, and who lost something by them. The leader's loop owns them.
type gaps struct {
	open     []*hole // that are to be judged
	asking   bool
	askedAt  time.Time
	over     map[*sub]struct{} // went over a gap that their checkpoints are not behind yet
	untold   lost              // since the log said so
	loggedAt time.Time
	news     bool // to be told in progress
}

// lost adds up what subscriptions lost.
type lost struct {
	subscriptions, events, from, to uint64
	sample                          string
}

func (u *lost) add(name string, gone span, n uint64) {
	if u.events == 0 || gone.from < u.from {
		u.from = gone.from
	}
	u.to = max(u.to, gone.to)
	u.subscriptions++
	u.events += n
	u.sample = name
}

// loss is what a subscription has to do with events that were removed from the stream before it had them.
type loss struct {
	fresh   bool       // it begins with the first event there is, whichever that is
	stopped *hole      // it does not go on: the hole is not judged yet, or it holds there; nil: it goes on
	holds   bool       // it holds at a gap (on_gap: pause)
	allowed uint64     // an operator lets it go over what is gone from here, or before
	told    span       // what of what it lost was counted and told last
	cleared span       // has nothing to get, and no more to ask or to tell
	passed  uint64     // the end of what it went over last
	gap     *event.Gap // what it lost, as it is told; nil: nothing, or long ago
}

// over notes that the stream has nothing between the segment's end and a sequence, and shows that to those that are attached.
func (l *leader) over(t *segment, to uint64) {
	if to <= t.high {
		return
	}
	h := &hole{span: span{t.high + 1, to}}
	if l.first > to { // known already
		l.judged(h, l.first)
	} else {
		l.gaps.open = append(l.gaps.open, h)
	}
	t.add(&entry{event: event.Event{Sequence: to}, hole: h, size: holeBytes})
	for s := range t.attached {
		if s.pos < to && !l.pass(s, h) {
			at := max(s.pos, h.from-1)
			l.detach(s)
			s.pos = at
			l.stop(s, h)
		}
	}
	if len(t.attached) > 0 {
		t.consumedTo = to
	}
}

// holeBytes is about what a hole takes in memory.
const holeBytes = 512

// pass takes a subscription over a hole. It reports false where it may not go on yet.
func (l *leader) pass(s *sub, h *hole) bool {
	fresh, from := s.loss.fresh && h.from <= s.startPosition()+1, max(h.from, s.pos+1)
	s.loss.fresh = false
	switch {
	case s.loss.cleared.has(span{from, h.to}):
	case fresh: // to begin with, there is nothing to miss
		l.clear(s, h.span)
		l.gaps.wentOver(s)
	case !h.judged && s.registration.OnGap == subscription.Pause:
		return false
	case !h.judged:
		h.passed = append(h.passed, passage{s, from})
	case h.gone < from: // deleted on purpose perhaps
	case s.registration.OnGap == subscription.Pause && from > s.loss.allowed:
		return false
	default:
		l.lose(s, span{from, h.gone})
	}
	return true
}

// stop keeps a subscription before a hole that it may not pass.
func (l *leader) stop(s *sub, h *hole) {
	s.loss.stopped = h
	if !h.judged {
		h.waiting = append(h.waiting, s)
		return
	}
	s.loss.holds = true
	l.tellLoss(s, span{max(h.from, s.pos+1), h.gone})
}

// lose takes a subscription over what is gone.
func (l *leader) lose(s *sub, gone span) {
	if s.loss.holds {
		s.loss.holds = false
		l.obstacles.block(s.name, "")
		l.gaps.news = true
	}
	l.tellLoss(s, gone)
	l.clear(s, gone)
	l.gaps.wentOver(s)
}

// clear notes that a subscription has nothing to get in a span, and went over it or is to.
func (l *leader) clear(s *sub, nothing span) {
	s.loss.cleared = s.loss.cleared.with(nothing)
	s.loss.passed = max(s.loss.passed, nothing.to)
}

// tellLoss counts what a subscription lost, and keeps it to be told. What was told before does not count again.
func (l *leader) tellLoss(s *sub, gone span) {
	if n := gone.events() - gone.and(s.loss.told).events(); n > 0 {
		s.loss.told = s.loss.told.with(gone)
		l.metrics.Gone.WithLabelValues(l.store).Add(float64(n))
		l.gaps.untold.add(s.name, gone, n)
		l.showGap(s, gone, n)
	} else if s.loss.holds && s.loss.gap == nil {
		l.showGap(s, gone, gone.events())
	}
	l.tellHold(s)
}

// showGap adds to what is told of a subscription.
func (l *leader) showGap(s *sub, gone span, n uint64) {
	g := event.Gap{Events: n, From: gone.from, To: gone.to, At: time.Now().UTC()}
	if was := s.loss.gap; was != nil {
		g.Events, g.From, g.To = g.Events+was.Events, min(g.From, was.From), max(g.To, was.To)
	}
	s.loss.gap = &g
	l.gaps.news = true
	l.checkpoints.mark(s) // so that the next leader tells it as well
}

// tellHold says why a subscription that holds gets nothing.
func (l *leader) tellHold(s *sub) {
	if s.loss.holds && s.loss.gap != nil {
		l.obstacles.block(s.name, fmt.Sprintf("%s, and forward.on_gap is pause; to let it go on behind them: subproxy restart %s %s", s.loss.gap, l.store, s.name))
	}
}

// judge finds out where the stream begins, for the holes that were met.
func (l *leader) judge(now time.Time) {
	g := &l.gaps
	if len(g.open) == 0 || g.asking || now.Sub(g.askedAt) < judgeAgain {
		return
	}
	holes := g.open
	g.open, g.asking, g.askedAt = nil, true, now
	resets := l.resets
	l.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		first, err := l.reader.First(ctx)
		l.inbox.call(func() {
			g.asking = false
			if resets != l.resets {
				return // they were of another stream
			}
			if err != nil {
				g.open = append(g.open, holes...)
				return
			}
			for _, h := range holes {
				l.judged(h, first)
			}
		})
	})
}

func (l *leader) judged(h *hole, first uint64) {
	h.judge(first)
	l.metrics.Holes.WithLabelValues(l.store).Add(float64(h.to - h.gone))
	for _, p := range h.passed {
		if h.gone >= p.from && p.sub.phase != absent {
			l.lose(p.sub, span{p.from, h.gone})
		}
	}
	for _, s := range h.waiting {
		// By now the segment may have forgotten it. The next one has a hole of its own there, of which nothing is to be asked again.
		if s.loss.stopped == h && l.pass(s, h) {
			s.loss.stopped = nil
			l.clear(s, h.span)
			l.resume(s)
		} else if s.loss.stopped == h {
			l.stop(s, h)
		}
	}
	h.passed, h.waiting = nil, nil
}

func (g *gaps) wentOver(s *sub) {
	if g.over == nil {
		g.over = map[*sub]struct{}{}
	}
	g.over[s] = struct{}{}
}

// skipGaps moves checkpoints over what is gone, so that the next leader does not find it once more.
func (l *leader) skipGaps() {
	for s := range l.gaps.over {
		at := s.pos
		if s.segment != nil {
			at = max(at, s.segment.high)
		}
		switch {
		case s.sender.Acked >= s.loss.passed:
		case s.phase == running && s.sender.Idle() && at >= s.loss.passed:
			s.sender.Skip(s.loss.passed)
			l.checkpoints.mark(s)
		case s.phase != absent:
			continue
		}
		delete(l.gaps.over, s)
	}
}

// permit is for an operator's restart of a subscription: what it lost is seen to, and it may go on where it holds.
func (l *leader) permit(s *sub, cause registration.Cause) {
	if cause != registration.Manual {
		return
	}
	if s.loss.holds {
		s.loss.allowed = s.loss.told.to
	}
	if s.loss.gap != nil {
		s.loss.gap = nil
		l.gaps.news = true
		l.checkpoints.mark(s)
	}
}

// forgetLoss is for a subscription that is no longer registered: nobody is told.
func (l *leader) forgetLoss(s *sub) {
	l.obstacles.block(s.name, "")
	s.loss = loss{told: s.loss.told, cleared: s.loss.cleared, passed: s.loss.passed, gap: s.loss.gap}
}

// lostBy is what subscriptions lost not long ago, or hold at, by name.
func (l *leader) lostBy(now time.Time) map[string]event.Gap {
	var all map[string]event.Gap
	for _, s := range l.subs {
		g := s.loss.gap
		if g == nil || s.phase == absent {
			continue
		}
		switch {
		case s.loss.holds: // perhaps more is gone meanwhile
			l.tellLoss(s, span{g.From, max(g.To, l.first-min(l.first, 1))})
			g = s.loss.gap
		case now.Sub(g.At) > gapToldFor:
			s.loss.gap = nil
			continue
		}
		if all == nil {
			all = map[string]event.Gap{}
		}
		all[s.name] = *g
	}
	return all
}

// logGaps says what was lost, at most once a minute.
func (l *leader) logGaps(now time.Time) {
	g := &l.gaps
	if g.untold.events == 0 || now.Sub(g.loggedAt) < gapsLoggedAgain {
		return
	}
	l.log.Warn("events were removed from the store's stream (by a limit, a purge or a deletion) before subscriptions had them",
		"subscriptions", g.untold.subscriptions, "one", g.untold.sample, "events_at_most", g.untold.events, "from", g.untold.from, "to", g.untold.to)
	g.untold, g.loggedAt = lost{}, now
}
