package feed

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// RetentionError is why a stream is not followed that keeps messages only until they are consumed.
type RetentionError struct {
	Stream    string
	Retention jetstream.RetentionPolicy // InterestPolicy or WorkQueuePolicy
}

func (e *RetentionError) Error() string {
	return fmt.Sprintf("stream %s has retention %s: it keeps messages only until they are consumed", e.Stream, e.Retention)
}

// Check returns a *RetentionError for a stream that a Feed does not follow, and nil for all others. A
// stream with interest retention stores nothing while nobody consumes it. One with work-queue retention can
// be followed by its republish, but a consumer would take its messages away.
func Check(cfg jetstream.StreamConfig) error {
	switch {
	case cfg.Retention == jetstream.LimitsPolicy:
		return nil
	case cfg.Retention == jetstream.WorkQueuePolicy && republished(cfg) != "":
		return nil
	}
	return &RetentionError{Stream: cfg.Name, Retention: cfg.Retention}
}

const (
	// troubleAfter is how long a stream can't be followed until that is told: an election takes a second or
	// two.
	troubleAfter = 5 * time.Second
	// sayAgain is how often the same trouble is logged, and sayOther how soon another.
	sayAgain = time.Minute
	sayOther = 10 * time.Second
)

// trouble is why the stream is not followed at present, and what was said of it.
type trouble struct {
	err    error // nil: it is followed
	since  time.Time
	last   uint64 // the cursor's, then
	said   string // to the log, last
	saidAt time.Time
	told   string // what Config.Trouble was told last; empty: that it is followed
}

// hinder notes that following failed. It reports whether that is to be logged.
func (t *trouble) hinder(err error, last uint64, now time.Time) (say bool) {
	if t.err == nil || last > t.last {
		t.since, t.last = now, last
	}
	t.err = err
	quiet := now.Sub(t.saidAt)
	if say = quiet >= sayAgain || quiet >= sayOther && t.said != err.Error(); say {
		t.said, t.saidAt = err.Error(), now
	}
	return say
}

// mend notes that the stream was read up to its end, or further than where the trouble began.
func (t *trouble) mend(last uint64, atEnd bool) {
	if t.err != nil && (atEnd || last > t.last) {
		t.err = nil
	}
}

// news returns what Config.Trouble is to be told, if anything: a retention at once, all else once it lasts.
func (t *trouble) news(now time.Time) (err error, tell bool) {
	var retention *RetentionError
	text := ""
	switch {
	case t.err == nil:
	case errors.As(t.err, &retention), now.Sub(t.since) >= troubleAfter:
		err, text = t.err, t.err.Error()
	default:
		return nil, false
	}
	tell = text != t.told
	t.told = text
	return err, tell
}

// hindered notes that following failed, says so to the log once a minute, and to the caller once it lasts.
func (f *Feed) hindered(err error) {
	now := time.Now()
	if f.trouble.hinder(err, f.cur.last, now) {
		f.log.Warn("the stream can't be followed at present", "error", err, "last_seq", f.cur.last)
	}
	f.tellTrouble(now)
}

// followed notes that nothing is in the way of following, as far as the cursor is.
func (f *Feed) followed(atEnd bool) {
	f.trouble.mend(f.cur.last, atEnd)
	f.tellTrouble(time.Now())
}

func (f *Feed) tellTrouble(now time.Time) {
	if err, tell := f.trouble.news(now); tell && f.cfg.Trouble != nil {
		f.cfg.Trouble(err)
	}
}
