package feed

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
)

var (
	answering = backoff.Backoff{First: 250 * time.Millisecond, Max: 4 * time.Second} // what a replica may take for an answer to a direct get
	refilling = backoff.Backoff{First: 20 * time.Millisecond, Max: time.Second}      // after a failed fill
)

const (
	sayAfter = 5 // failures in a row are worth a warning: no leader for long, or a permission missing
	// orderedFill bounds a fill beside an ordered consumer. It bridges the time in which that stands still,
	// message by message from the leader; the consumer does the rest.
	orderedFill = 64
)

// gap notes that messages are missing and reads them, unless the last try has just failed.
func (s *follower) gap(ctx context.Context) {
	if time.Now().Before(s.retryAt) {
		return
	}
	if s.level {
		s.counts.gaps.Add(1)
	}
	s.fill(ctx)
}

// fill reads the stream from the cursor to its target. If that fails it sets the time to try again.
func (s *follower) fill(ctx context.Context) {
	target, level := s.cur.target, s.level
	before := s.counts.received.Load()
	err := s.read(ctx)
	read := s.counts.received.Load() - before
	if level {
		s.counts.filled.Add(read)
	}
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, errNothing):
		s.cur.nothing()
		s.reachLevel(target)
		fallthrough
	case err == nil:
		s.failures, s.retryAt = 0, time.Time{}
	default:
		if read > 0 {
			s.failures = 0
		}
		s.failures++
		wait := refilling.After(s.failures)
		s.retryAt = time.Now().Add(wait)
		s.timer.Reset(wait)
		s.log.Debug("reading missing messages failed", "error", err, "from", s.cur.last+1, "to", target, "retry_in", wait)
		if s.failures >= sayAfter {
			s.hindered(fmt.Errorf("its messages from %d to %d can't be read: %w", s.cur.last+1, target, err))
		}
	}
}

// read delivers what lies between the cursor and its target. errNothing means that the leader has no more.
func (s *follower) read(ctx context.Context) error {
	for n := 0; s.cur.last < s.cur.target; n++ {
		if !s.direct && n == orderedFill {
			s.cur.target = s.cur.last
			return nil
		}
		if s.direct {
			from := s.cur.last
			more, err := s.readPage(ctx)
			if err != nil && !errors.Is(err, errOther) {
				return err
			}
			if more && s.cur.last > from || s.cur.last >= s.cur.target {
				continue
			}
		}
		// The replica that answered has no more, or not yet, or is not to be believed. The leader knows.
		m, err := s.api.leaderGet(ctx, s.cur.last+1, true)
		if err != nil {
			return err
		}
		s.cur.believe(m.Time)
		s.deliver(m)
	}
	return nil
}

// pageBytes is what one page of a fill is asked for in bytes, at the most.
const pageBytes = 4 << 20

// readPage delivers the answers to one direct get. It stops before a message older than the stream, and
// reports then that there is no more.
func (s *follower) readPage(ctx context.Context) (more bool, err error) {
	batch := int(min(uint64(s.cfg.batchSize), s.cur.target-s.cur.last))
	if s.guard.isUp() { // what was stored since is not believed either where it is heard
		batch = s.cfg.batchSize
	}
	wait := answering.After(s.failures + 1)
	var page []Message // how fast it comes is measured, and that the handler takes long is no matter of the link
	more, err = s.api.page(ctx, getRequest{Seq: s.cur.last + 1, Batch: batch, MaxBytes: pageBytes}, batch, wait, func(m Message) bool {
		page = append(page, m)
		return true
	})
	for _, m := range page {
		if s.cur.older(m.Time) {
			return false, err
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		s.deliver(m)
	}
	return more, err
}
