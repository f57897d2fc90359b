package rebalance

import "time"

// What one instance hands over at once, and what one receives. A subscription pauses from when its holder
// releases it until it is registered again. That takes the longer the more are on their way: where the
// processors are busy, by all that they have in common.
const (
	FirstWindow = 16
	minWindow   = 4
	MaxWindow   = 256
	// slowTransfer is too long, unless a registration takes so long by itself (latencyFloor): the emitter
	// has to find it after that, and the slowest of thousands must stay below the 100 ms that are bearable
	// (subproxy-bench instances).
	slowTransfer = 10 * time.Millisecond
)

// window finds how many subscriptions may be on their way at once, as TCP does for its segments: one more
// for each that was fast, half as many after one that was slow.
type window struct {
	size  int
	cutAt time.Time // what was released before says nothing about the size since
}

func newWindow() window { return window{size: FirstWindow} }

// begin is for when nothing is on its way: the last transfers were at another time.
func (w *window) begin() { w.size = min(w.size, FirstWindow) }

// observe notes how long a subscription took that was released at that time, and what is too long.
func (w *window) observe(released, now time.Time, slow time.Duration) {
	switch took := now.Sub(released); {
	case took <= slow/2:
		w.size = min(w.size+1, MaxWindow)
	case took > slow && !released.Before(w.cutAt):
		w.size, w.cutAt = max(w.size/2, minWindow), now
	}
}

// latencyFloor is what a registration took at the least lately: what NATS takes where nothing is in the
// way. Where that is long, with servers that are far apart, fewer at once would be no faster.
type latencyFloor struct {
	current, before time.Duration // in this period, and in the one before; 0: none
	since           time.Time
}

// latencyPeriod is what "lately" means.
const latencyPeriod = time.Minute

func (f *latencyFloor) observe(took time.Duration, now time.Time) {
	if now.Sub(f.since) > latencyPeriod {
		f.current, f.before, f.since = 0, f.current, now
	}
	if f.current == 0 || took < f.current {
		f.current = took
	}
}

// slow is what is too long for a transfer.
func (f *latencyFloor) slow() time.Duration {
	least := f.current
	if least == 0 || f.before > 0 && f.before < least {
		least = f.before
	}
	return max(slowTransfer, 3*least)
}
