package emitter

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/feed"
)

const (
	// maxPasses is how many passes read old events at once. Each has its own pace: those that can't keep up
	// with it fall off and wait for another, so that a slow subscription holds up nobody. More would
	// compete for what one server can read.
	maxPasses = 4
	pageSize  = 1000
	pageBytes = 4 << 20
	// shortPass is how many pages a pass reads by direct get alone. One that has more to read then, and
	// somebody who keeps up with it, is worth a consumer: a slow subscription, of which every window begins
	// a pass, never has one.
	shortPass = 3
	// abandonAfter is how long a pass to which nobody is attached is kept after it read or replayed
	// something last, while somebody waits and there may be no more passes; and else. A subscription whose
	// window is full is detached and comes back for the rest, after the way to its proxy and back.
	abandonAfter     = 100 * time.Millisecond
	abandonedForGood = time.Second
	// readAgain is how soon a failed read is tried again.
	readAgain = 50 * time.Millisecond
	// believeNothing is how many times in a row the stream's leader has to say that it has nothing before
	// that is believed; a deposed one may say so.
	believeNothing = 3
)

// reader reads what the stream has stored; *feed.Reader is one.
type reader interface {
	Read(ctx context.Context, from uint64, batch, maxBytes int) ([]feed.Message, error)
	BulkReader(log *slog.Logger) *feed.BulkReader
	// AheadReader is nil where the way to the server is short.
	AheadReader() *feed.AheadReader
	First(ctx context.Context) (uint64, error)
	Last(ctx context.Context) (uint64, error)
	Compare(ctx context.Context, known []feed.Witness) (feed.Comparison, error)
}

// plan lets passes read on, ends those that have caught up or are abandoned, and begins one where somebody
// waits. More at once would read the same: they begin where the first has not come by yet.
func (c *catchUp) plan(ctx context.Context, now time.Time) {
	if c.tail == nil {
		return
	}
	for i := 0; i < len(c.passes); {
		if t := c.passes[i]; c.advance(t, now) {
			i++
		} else {
			c.end(t)
		}
	}
	if t := c.startPass(ctx); t != nil && !c.advance(t, now) {
		c.end(t)
	}
}

// startPass begins a pass, where one is waited for, and takes along all that stand at the same place.
func (c *catchUp) startPass(ctx context.Context) *segment {
	t := c.begin(ctx)
	if t != nil {
		c.gaps.metrics.Passes.Inc()
		c.attachWaiting(t, t.high)
	}
	return t
}

// attachWaiting takes up those who wait within what the segment grew by.
func (c *catchUp) attachWaiting(t *segment, from uint64) {
	for s := range c.waiting {
		// What comes first after low may have been forgotten for the sake of the one before.
		if s.pos >= from && s.pos <= t.high && t.has(s.pos) {
			c.forget(s)
			c.replay(s, t)
		}
	}
}

// changeOver takes those that are attached to a pass to the tail. One that wants an event which was given
// away there stays on the pass, or waits for another.
func (c *catchUp) changeOver(t *segment) {
	for _, s := range slices.Collect(maps.Keys(t.attached)) {
		t.detach(s)
		c.resume(s)
	}
}

// advance reports whether the pass goes on.
func (c *catchUp) advance(t *segment, now time.Time) bool {
	if t.high+1 < c.first {
		c.over(t, min(c.first-1, max(c.tail.low, t.high))) // the tail may still have what comes after
	}
	if c.tail.has(t.high) {
		c.changeOver(t)
		if len(t.attached) == 0 && t.ahead() == 0 { // else somebody stays, or those that fell off have not seen it all
			return false
		}
	}
	if len(t.attached) == 0 && !t.reading {
		if t.emptyAt.IsZero() {
			t.emptyAt = now
		}
		if empty := now.Sub(t.emptyAt); empty > abandonedForGood+c.way || empty > abandonAfter+c.way && c.isShort() {
			return false
		}
	}
	if !t.reading && !c.tail.has(t.high) && t.ahead() < pageSize && !now.Before(t.retryAt) {
		c.reader.read(t)
	}
	return true
}

// page takes what a pass read.
func (c *catchUp) page(t *segment, page []feed.Message, err error, now time.Time) {
	if !c.goesOn(t) {
		return // given up meanwhile, perhaps with its stream: nobody may be attached to what does not go on
	}
	t.reading = false
	switch {
	case err == nil:
		t.nothing = 0
		t.pages++
	case errors.Is(err, feed.ErrNothing):
		if t.nothing++; t.nothing >= believeNothing && c.tail != nil {
			c.over(t, c.tail.low)
			t.nothing = 0
		}
		t.retryAt = now.Add(readAgain)
		return
	default:
		t.retryAt = now.Add(readAgain)
		return
	}
	before := t.high
	for i := range page {
		if page[i].Sequence <= t.high {
			continue
		}
		if next := page[i].Sequence - 1; next > t.high {
			c.over(t, min(next, max(t.high, c.tail.low)))
			if next > t.high { // the tail still has the rest
				break
			}
		}
		e := c.reader.entryOf(page[i])
		if e == nil {
			t.high = page[i].Sequence
			continue
		}
		c.gaps.metrics.Read.Inc()
		t.add(e)
		c.dispatch(t, e)
	}
	t.trim(maxEvents/2, maxBytes/2)
	t.emptyAt = time.Time{} // the read may have taken long, and somebody may come for the page yet
	c.attachWaiting(t, before)
}
