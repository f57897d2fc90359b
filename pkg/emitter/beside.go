package emitter

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/exesdb/subproxy/pkg/feed"
)

// parkAside parks an event that can't be sent beside the loop, and lets its subscription go on then.
func (l *leader) parkAside(s *sub, e *entry, reason error) {
	r, ev, epoch := s.registration, e.event, l.history.epoch
	ev.Header = maps.Clone(ev.Header)
	l.work.Go(func() {
		ctx, cancel := l.within(checkpointIO, 2)
		defer cancel()
		err := l.park(ctx, &r, &ev, epoch, reason.Error())
		l.inbox.call(func() {
			s.parking = false
			if err != nil {
				l.digest.Add(slog.LevelError, l.store, "events that are too large to be sent could not be parked; they hold their subscriptions",
					"subscription", s.name, "sequence", ev.Sequence, "error", err)
				l.reporter.obstacles.block(s.name, fmt.Sprintf("event %d is too large to be sent (%v) and can't be parked: %v", ev.Sequence, reason, err))
				return
			}
			l.digest.Add(slog.LevelError, l.store, "events are larger than the server's max_payload once they have their headers; they are parked",
				"subscription", s.name, "sequence", ev.Sequence, "error", reason)
			l.reporter.obstacles.block(s.name, "")
			if s.parked = ev.Sequence; s.phase == paused {
				l.subs.ask(s, time.Now())
			}
		})
	})
}

// read reads the next page beside the loop.
func (l *leader) read(t *segment) {
	t.reading = true
	from, read := t.high+1, l.reader.Read
	if t.pager == nil {
		t.pager = l.reader.AheadReader()
	}
	if t.pager == nil && t.stretch == nil && t.pages >= shortPass && l.catchUp.tail.low > t.high+shortPass*pageSize {
		t.stretch = l.reader.BulkReader(l.log)
	}
	switch {
	case t.pager != nil:
		upTo, pages := l.catchUp.tail.low, 1+l.catchUp.appetite(t)/pageSize
		read = func(ctx context.Context, from uint64, batch, maxBytes int) ([]feed.Message, error) {
			return t.pager.Read(ctx, from, batch, maxBytes, upTo, pages)
		}
	case t.stretch != nil:
		read = t.stretch.Read
	}
	l.work.Go(func() {
		page, err := read(t.ctx, from, pageSize, pageBytes)
		l.inbox.call(func() { l.catchUp.page(t, page, err, time.Now()) })
	})
}

// judge finds out beside the loop where the stream begins, for the holes that were met.
func (l *leader) judge(now time.Time) {
	holes := l.catchUp.gaps.toJudge(now)
	if len(holes) == 0 {
		return
	}
	reader, resets := l.reader, l.history.resets
	l.work.Go(func() {
		ctx, cancel := l.within(2*time.Second, 1)
		defer cancel()
		first, err := reader.First(ctx)
		l.inbox.call(func() {
			l.catchUp.gaps.asking = false
			switch {
			case resets != l.history.resets: // they were of another stream
			case err != nil:
				l.catchUp.gaps.judgeLater(holes)
			default:
				for _, h := range holes {
					l.catchUp.judged(h, first)
				}
			}
		})
	})
}
