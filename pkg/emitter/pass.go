package emitter

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/feed"
)

const (
	// maxPasses is how many passes read old events at once. Each has its own pace: those that can't keep up with it fall off and
	// wait for another, so that a slow subscription holds up nobody. More would compete for what one server can read.
	maxPasses = 4
	pageSize  = 1000
	pageBytes = 4 << 20
	// shortPass is how many pages a pass reads by direct get alone. One that has more to read then, and somebody who keeps up
	// with it, is worth a consumer: a slow subscription, of which every window begins a pass, never has one.
	shortPass = 3
	// abandonAfter is how long a pass waits for somebody to ride on it, while somebody else waits for one; and else.
	abandonAfter     = 100 * time.Millisecond
	abandonedForGood = time.Second
	// readAgain is how soon a failed read is tried again.
	readAgain = 50 * time.Millisecond
	// believeNothing is how many times in a row the stream's leader has to say that it has nothing before that is believed; a
	// deposed one may say so.
	believeNothing = 3
)

// plan starts passes for those that wait for one, lets passes read on, and ends those that have caught up or are abandoned.
func (l *leader) plan(ctx context.Context, now time.Time) {
	if l.tail == nil {
		return
	}
	if len(l.wanting) > 0 && len(l.passes) < maxPasses {
		l.startPass(ctx)
	}
	kept := l.passes[:0]
	for _, t := range l.passes {
		if l.advance(t, now) {
			kept = append(kept, t)
		} else {
			t.end()
		}
	}
	clear(l.passes[len(kept):])
	l.passes = kept
}

// startPass begins where the one furthest behind is, and takes along all that stand at the same place. Those further on
// get on when it comes by.
func (l *leader) startPass(ctx context.Context) {
	at := ^uint64(0)
	for s := range l.wanting {
		at = min(at, s.pos)
	}
	t := newTrack(at)
	t.ctx, t.end = context.WithCancel(ctx)
	l.passes = append(l.passes, t)
	l.metrics.Passes.Inc()
	l.board(t, at, at)
}

// board takes up those who wait within the track's last stretch.
func (l *leader) board(t *track, from, to uint64) {
	for s := range l.wanting {
		if s.pos >= from && s.pos <= to {
			delete(l.wanting, s)
			l.serve(s, t)
		}
	}
}

// advance reports whether the pass goes on.
func (l *leader) advance(t *track, now time.Time) bool {
	if t.high+1 < l.first {
		t.high = min(l.first-1, max(l.tail.low, t.high)) // what lay between is gone
	}
	if l.tail.has(t.high) {
		for s := range t.riders {
			l.leave(s)
			s.pos = max(s.pos, t.high)
			l.resume(s)
		}
		if t.ahead() == 0 { // else those that fell off have not seen it all
			return false
		}
	}
	if len(t.riders) == 0 && !t.reading {
		if t.emptyAt.IsZero() {
			t.emptyAt = now
		}
		if empty := now.Sub(t.emptyAt); empty > abandonedForGood || empty > abandonAfter && len(l.wanting) > 0 {
			return false
		}
	}
	if !t.reading && !l.tail.has(t.high) && t.ahead() < pageSize && !now.Before(t.retryAt) {
		l.read(t)
	}
	return true
}

// read reads the next page beside the loop.
func (l *leader) read(t *track) {
	t.reading = true
	from, read := t.high+1, l.reader.Read
	if t.stretch == nil && t.pages >= shortPass && l.tail.low > t.high+shortPass*pageSize {
		t.stretch = l.reader.Stretch(l.log)
	}
	if t.stretch != nil {
		read = t.stretch.Read
	}
	l.work.Go(func() {
		page, err := read(t.ctx, from, pageSize, pageBytes)
		l.inbox.call(func() { l.page(t, page, err) })
	})
}

func (l *leader) page(t *track, page []feed.Message, err error) {
	if !slices.Contains(l.passes, t) {
		return // given up meanwhile, perhaps with its stream: nobody may ride on what does not go on
	}
	t.reading, t.emptyAt = false, time.Time{}
	switch {
	case err == nil:
		t.nothing = 0
		t.pages++
	case errors.Is(err, feed.ErrNothing):
		if t.nothing++; t.nothing >= believeNothing && l.tail != nil {
			t.high, t.nothing = max(t.high, l.tail.low), 0
		}
		t.retryAt = time.Now().Add(readAgain)
		return
	default:
		t.retryAt = time.Now().Add(readAgain)
		return
	}
	before := t.high
	for i := range page {
		if page[i].Sequence <= t.high {
			continue
		}
		e := l.entryOf(page[i])
		if e == nil {
			t.high = page[i].Sequence
			continue
		}
		l.metrics.Read.Inc()
		t.add(e)
		l.dispatch(t, e)
	}
	t.trim(maxEvents/2, maxBytes/2)
	l.board(t, max(before, t.low), t.high)
}
