package emitter

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

const (
	// judgeAgain is the least time between two questions where the stream begins: one whose subjects are
	// limited is full of holes.
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

// hole is a span of sequences that the stream did not show to whoever read on behind it. What of it lies
// before the stream's first message was removed by a limit or a purge; the rest was deleted on purpose, or
// dropped by a limit per subject: nobody can tell.
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

// judge says what of the hole is gone, by the sequence of the stream's first message. It was looked up
// after the hole was seen.
func (h *hole) judge(first uint64) {
	h.judged, h.gone = true, h.from-1
	if first > h.from {
		h.gone = min(first-1, h.to)
	}
}

// gaps are the holes that were met, and who lost something by them. The leader's loop owns them.
type gaps struct {
	store       string
	log         *slog.Logger
	metrics     *Metrics
	obstacles   *obstacles   // that a subscription holds is one
	checkpoints *checkpoints // have what was lost, so that the next leader tells it as well

	now      time.Time // of the loop's turn
	open     []*hole   // that are to be judged
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

// holeBytes is about what a hole takes in memory.
const holeBytes = 512

// pass takes a subscription over a hole. It reports false where it may not go on yet.
func (g *gaps) pass(s *sub, h *hole) bool {
	fresh, from := s.loss.fresh && h.from <= s.startPosition()+1, max(h.from, s.pos+1)
	s.loss.fresh = false
	switch {
	case s.loss.cleared.has(span{from, h.to}):
	case fresh: // to begin with, there is nothing to miss
		g.clear(s, h.span)
		g.wentOver(s)
	case !h.judged && s.registration.OnGap == subscription.Pause:
		return false
	case !h.judged:
		h.passed = append(h.passed, passage{s, from})
	case h.gone < from: // deleted on purpose perhaps
	case s.registration.OnGap == subscription.Pause && from > s.loss.allowed:
		return false
	default:
		g.lose(s, span{from, h.gone})
	}
	return true
}

// stop keeps a subscription before a hole that it may not pass.
func (g *gaps) stop(s *sub, h *hole) {
	s.loss.stopped = h
	if !h.judged {
		h.waiting = append(h.waiting, s)
		return
	}
	s.loss.holds = true
	g.tellLoss(s, span{max(h.from, s.pos+1), h.gone})
}

// lose takes a subscription over what is gone.
func (g *gaps) lose(s *sub, gone span) {
	if s.loss.holds {
		s.loss.holds = false
		g.obstacles.block(s.name, "")
		g.news = true
	}
	g.tellLoss(s, gone)
	g.clear(s, gone)
	g.wentOver(s)
}

// clear notes that a subscription has nothing to get in a span, and went over it or is to.
func (g *gaps) clear(s *sub, nothing span) {
	s.loss.cleared = s.loss.cleared.with(nothing)
	s.loss.passed = max(s.loss.passed, nothing.to)
}

// tellLoss counts what a subscription lost, and keeps it to be told. What was told before does not count
// again.
func (g *gaps) tellLoss(s *sub, gone span) {
	if n := gone.events() - gone.and(s.loss.told).events(); n > 0 {
		s.loss.told = s.loss.told.with(gone)
		g.metrics.Gone.WithLabelValues(g.store).Add(float64(n))
		g.untold.add(s.name, gone, n)
		g.showGap(s, gone, n)
	} else if s.loss.holds && s.loss.gap == nil {
		g.showGap(s, gone, gone.events())
	}
	g.tellHold(s)
}

// showGap adds to what is told of a subscription.
func (g *gaps) showGap(s *sub, gone span, n uint64) {
	lost := event.Gap{Events: n, From: gone.from, To: gone.to, At: g.now.UTC()}
	if was := s.loss.gap; was != nil {
		lost.Events, lost.From, lost.To = lost.Events+was.Events, min(lost.From, was.From), max(lost.To, was.To)
	}
	s.loss.gap = &lost
	g.news = true
	g.checkpoints.mark(s) // so that the next leader tells it as well
}

// tellHold says why a subscription that holds gets nothing.
func (g *gaps) tellHold(s *sub) {
	if s.loss.holds && s.loss.gap != nil {
		g.obstacles.block(s.name, fmt.Sprintf("%s, and forward.on_gap is pause; to let it go on behind them: subproxy restart %s %s", s.loss.gap, g.store, s.name))
	}
}

// toJudge takes the holes that are to be judged; none while others are. What came of it is told to
// catchUp.judged, or to judgeLater.
func (g *gaps) toJudge(now time.Time) []*hole {
	if len(g.open) == 0 || g.asking || now.Sub(g.askedAt) < judgeAgain {
		return nil
	}
	holes := g.open
	g.open, g.asking, g.askedAt = nil, true, now
	return holes
}

// judgeLater is for holes of which it could not be found out.
func (g *gaps) judgeLater(holes []*hole) { g.open = append(g.open, holes...) }

func (g *gaps) wentOver(s *sub) {
	if g.over == nil {
		g.over = map[*sub]struct{}{}
	}
	g.over[s] = struct{}{}
}

// permit is for an operator's restart of a subscription: what it lost is seen to, and it may go on where it
// holds.
func (g *gaps) permit(s *sub, cause registration.Cause) {
	if cause != registration.Manual {
		return
	}
	if s.loss.holds {
		s.loss.allowed = s.loss.told.to
	}
	if s.loss.gap != nil {
		s.loss.gap = nil
		g.news = true
		g.checkpoints.mark(s)
	}
}

// forgetLoss is for a subscription that is no longer registered: nobody is told.
func (g *gaps) forgetLoss(s *sub) {
	g.obstacles.block(s.name, "")
	s.loss = loss{told: s.loss.told, cleared: s.loss.cleared, passed: s.loss.passed, gap: s.loss.gap}
}

// lostBy is what subscriptions lost not long ago, or hold at, by name.
func (c *catchUp) lostBy(subs map[string]*sub, now time.Time) map[string]event.Gap {
	var all map[string]event.Gap
	for _, s := range subs {
		g := s.loss.gap
		if g == nil || s.phase == absent {
			continue
		}
		switch {
		case s.loss.holds: // perhaps more is gone meanwhile
			c.gaps.tellLoss(s, span{g.From, max(g.To, c.first-min(c.first, 1))})
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

// logLost says what was lost, at most once a minute.
func (g *gaps) logLost(now time.Time) {
	if g.untold.events == 0 || now.Sub(g.loggedAt) < gapsLoggedAgain {
		return
	}
	g.log.Warn("events were removed from the store's stream (by a limit, a purge or a deletion) before subscriptions had them",
		"subscriptions", g.untold.subscriptions, "one", g.untold.sample, "events_at_most", g.untold.events, "from", g.untold.from, "to", g.untold.to)
	g.untold, g.loggedAt = lost{}, now
}
