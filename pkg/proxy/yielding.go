package proxy

import (
	"time"

	"github.com/exesdb/subproxy/pkg/health"
	"github.com/exesdb/subproxy/pkg/registration"
)

// What one instance hands over at once, and what one takes. A subscription pauses from when its holder leaves it until it is registered
// again, and that takes the longer the more are on their way: where the processors are busy, by all that they have in common.
const (
	firstAway = 16
	leastAway = 4
	mostAway  = 256
	// slowMove is too long, unless a registration takes so long by itself (see quickest): the emitter has to find it after that, and
	// the slowest of thousands must stay below the 100 ms that are bearable (subproxy-bench instances).
	slowMove = 10 * time.Millisecond
	// lostMove is when nobody is waited for any more: who asked is gone, or others hold what it asked for by turns.
	lostMove = time.Second
)

// pace finds how many subscriptions may be on their way at once, as TCP does for its segments.
type pace struct {
	window int
	cutAt  time.Time // what was released before says nothing about the window since
}

func newPace() pace { return pace{window: firstAway} }

// begin is for when nothing is on its way: the last time was another time.
func (p *pace) begin() { p.window = min(p.window, firstAway) }

// arrived notes how long a subscription took that was released at that time, and what is too long.
func (p *pace) arrived(released, now time.Time, slow time.Duration) {
	switch took := now.Sub(released); {
	case took <= slow/2:
		p.window = min(p.window+1, mostAway)
	case took > slow && !released.Before(p.cutAt):
		p.window, p.cutAt = max(p.window/2, leastAway), now
	}
}

// quickest is what a registration took at the least lately: what NATS takes where nothing is in the way. Where that is long, with
// servers that are far apart, fewer at once would be no faster.
type quickest struct {
	now, before time.Duration // in this period, and in the one before; 0: none
	since       time.Time
}

// lately is the period.
const lately = time.Minute

func (q *quickest) note(took time.Duration, now time.Time) {
	if now.Sub(q.since) > lately {
		q.now, q.before, q.since = 0, q.now, now
	}
	if q.now == 0 || took < q.now {
		q.now = took
	}
}

// slow is what is too long for a move.
func (q *quickest) slow() time.Duration {
	least := q.now
	if least == 0 || q.before > 0 && q.before < least {
		least = q.before
	}
	return max(slowMove, 3*least)
}

// promise is a subscription that another instance asked for.
type promise struct {
	item *item
	to   registration.Owner
}

// promise takes another instance's request. What it names is handed over in turn.
func (l *loop) promise(r *health.HandOver) {
	if len(l.promises) == 0 && len(l.away) == 0 {
		l.pace.begin()
	}
	for _, name := range r.Names {
		if it := l.byName[name]; it != nil && !it.promised && l.yields(it, r.To) {
			it.promised = true
			l.promises = append(l.promises, promise{it, r.To})
		}
	}
}

func (l *loop) yields(it *item, to registration.Owner) bool {
	m := l.peers()
	p := &it.proxy
	if m == nil || it.removed || !p.Registered || p.Failures > 0 || p.Standby || p.Attempting {
		return false // what it is registered at is known only where all is well
	}
	return m.Grants(it.key, to)
}

// yield hands over what was promised, as much as may be on its way.
func (l *loop) yield(now time.Time, wake *time.Time) {
	if len(l.promises) == 0 {
		return
	}
	for it, released := range l.away {
		if at := released.Add(lostMove); now.Before(at) {
			sooner(wake, at)
		} else {
			delete(l.away, it)
		}
	}
	yielded := l.yielded
	for len(l.promises) > 0 && len(l.away) < l.pace.window {
		it, to := l.promises[0].item, l.promises[0].to
		l.promises, it.promised = l.promises[1:], false
		if !l.yields(it, to) {
			continue
		}
		l.step(it, Input{Kind: Unassigned, To: &to}, now)
		if l.yielded++; isClosed(it.busy) { // else it is not on its way yet, for as long as its sink takes
			l.away[it] = now
		}
	}
	l.metrics.Moves.WithLabelValues("yielded").Add(float64(l.yielded - yielded))
	if len(l.promises) > 0 {
		return
	}
	if l.yielded > 0 {
		l.log.Info("subscriptions were handed over", "subscriptions", l.yielded, "at_once", l.pace.window)
	}
	l.promises, l.yielded = nil, 0
}

// arrived notes that another instance registered what was released.
func (l *loop) arrived(it *item, now time.Time) {
	if released, ok := l.away[it]; ok {
		delete(l.away, it)
		l.pace.arrived(released, now, l.quickest.slow())
	}
}
