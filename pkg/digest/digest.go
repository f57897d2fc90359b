// Package digest logs what may happen to thousands of events of a store, such as being refused and parked,
// as few lines: each message at once the first time, and then once an interval, with how many there were
// meanwhile.
package digest

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Interval is how often the same thing is logged of a store.
const Interval = time.Minute

// Log is a log of events by store. It is safe for concurrent use.
type Log struct {
	logger   *slog.Logger
	interval time.Duration

	mu     sync.Mutex
	open   map[topic]*digest
	closed bool
}

// topic is what is logged together.
type topic struct {
	store, message string
	level          slog.Level
}

// digest is what there is to log at the end of an interval.
type digest struct {
	n     int   // since it was logged
	last  []any // attributes of the last of them
	timer *time.Timer
}

// New makes a log that writes to the logger.
func New(logger *slog.Logger, interval time.Duration) *Log {
	return &Log{logger: logger, interval: interval, open: map[topic]*digest{}}
}

// Add takes one event. The attributes that are logged are those of the last one.
func (d *Log) Add(level slog.Level, store, message string, attributes ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := topic{store, message, level}
	if g := d.open[t]; g != nil {
		g.n, g.last = g.n+1, attributes
		return
	}
	d.write(t, 1, attributes)
	if !d.closed {
		d.open[t] = &digest{timer: time.AfterFunc(d.interval, func() { d.end(t) })}
	}
}

// end is the end of an interval.
func (d *Log) end(t topic) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.open[t]
	switch {
	case g == nil: // closed meanwhile
	case g.n == 0:
		delete(d.open, t)
	default:
		d.write(t, g.n, g.last)
		g.n, g.last = 0, nil
		g.timer.Reset(d.interval)
	}
}

func (d *Log) write(t topic, n int, attributes []any) {
	d.logger.Log(context.Background(), t.level, t.message, append([]any{"store", t.store, "events", n}, attributes...)...)
}

// Close logs what is left, and from then on each at once.
func (d *Log) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for t, g := range d.open {
		g.timer.Stop()
		if g.n > 0 {
			d.write(t, g.n, g.last)
		}
	}
	clear(d.open)
}
