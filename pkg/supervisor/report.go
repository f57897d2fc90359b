package supervisor

import (
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/status"
)

const (
	// soonDelay is how long a status that only changed in detail may wait, so that statuses don't compete
	// with a round.
	soonDelay = time.Second
	// publishSlice is how many statuses are published between two looks at the inbox.
	publishSlice = 500
	// pause is how soon the loop goes on publishing after a slice.
	pause = 2 * time.Millisecond
)

// reporter publishes statuses and summaries. It belongs to the loop's goroutine.
type reporter struct {
	*roster
	watch  *watch
	agenda *agenda

	atOnce []*managed
	soon   []*managed
	soonAt time.Time // when the first of soon may wait no longer

	beatAt    time.Time // when the next heartbeat slice is due
	beatPlace int       // the item it begins with
	summaryAt time.Time
}

func (r *reporter) mark(it *managed, u proxy.Urgency) {
	if u <= it.dirty || it.removed {
		return
	}
	it.dirty = u
	if u == proxy.AtOnce {
		r.atOnce = append(r.atOnce, it)
		return
	}
	if len(r.soon) == 0 {
		r.soonAt = time.Now().Add(soonDelay)
	}
	r.soon = append(r.soon, it)
}

// publish tells what is due to be told of how the proxies are. While a round is under way, details wait.
func (r *reporter) publish(inRound bool, wake *time.Time) work {
	slice := publishSlice
	return func(now time.Time, left *int) bool {
		r.flush(&r.atOnce, now, &slice, left)
		if !inRound || !now.Before(r.soonAt) {
			r.flush(&r.soon, now, &slice, left)
		} else if len(r.soon) > 0 {
			sooner(wake, r.soonAt)
		}
		if *left <= 0 {
			return true
		}
		if slice > 0 {
			r.heartbeat(now, wake)
		}
		r.summarize(now, wake)
		if len(r.atOnce) > 0 || len(r.soon) > 0 && slice <= 0 {
			sooner(wake, now.Add(pause))
		}
		return false
	}
}

func sooner(wake *time.Time, at time.Time) {
	if at.Before(*wake) {
		*wake = at
	}
}

// flush publishes the statuses of as many items as are left to publish, and leaves the rest queued.
func (r *reporter) flush(queue *[]*managed, now time.Time, slice, left *int) {
	for ; len(*queue) > 0 && *slice > 0 && *left > 0; *left-- {
		it := (*queue)[0]
		*queue = (*queue)[1:]
		if it.dirty != proxy.NotNow && !it.removed {
			it.dirty = proxy.NotNow
			r.send("status", status.StatusSubject(r.store, it.proxy.Name), r.status(it, now))
			*slice--
		}
	}
	if len(*queue) == 0 {
		*queue = nil
	}
}

// heartbeat repeats every status once an interval, a slice at a time: ten slices a second, each with the
// share that falls to a tenth of a second, begin where the last one ended.
func (r *reporter) heartbeat(now time.Time, wake *time.Time) {
	const tick = 100 * time.Millisecond
	interval := r.settings.Load().HeartbeatInterval
	if len(r.items) == 0 {
		return
	}
	if now.Before(r.beatAt) {
		sooner(wake, r.beatAt)
		return
	}
	share := len(r.items)
	wait := interval
	if slices := int(interval / tick); share > slices && slices > 0 {
		share, wait = (share+slices-1)/slices, tick
	} else {
		share, wait = 1, interval/time.Duration(share)
	}
	r.agenda.add(r.agenda.steps(share, func(_ int, now time.Time) {
		r.beatPlace = (r.beatPlace + 1) % len(r.items)
		it := r.items[r.beatPlace]
		if it.proxy.Standby && it.proxy.Health == breaker.Standby {
			return // its holder's is the one to repeat
		}
		it.dirty = proxy.NotNow
		r.send("status", status.StatusSubject(r.store, it.proxy.Name), r.status(it, now))
	}))
	r.beatAt = now.Add(backoff.Spread(wait, backoff.Jitter()))
	sooner(wake, r.beatAt)
}

func (r *reporter) summarize(now time.Time, wake *time.Time) {
	if now.Before(r.summaryAt) {
		sooner(wake, r.summaryAt)
		return
	}
	r.summaryAt = now.Add(backoff.Spread(r.settings.Load().SummaryInterval, backoff.Jitter()))
	sooner(wake, r.summaryAt)
	r.agenda.add(r.summary(r.items, func(s status.Summary) { r.send("summary", status.SummarySubject(r.store), s) }))
}

// summary counts the proxies, and tells the summary.
func (r *reporter) summary(items []*managed, tell func(status.Summary)) work {
	s, furthest, next := status.Summary{Store: r.store, Owner: r.owner}, uint64(0), 0
	return func(now time.Time, left *int) bool {
		for ; next < len(items); next++ {
			if *left <= 0 {
				return true
			}
			*left--
			if it := items[next]; !it.removed {
				furthest = max(furthest, r.countIn(&s, it, now))
			}
		}
		s.Envelope = status.NewEnvelope(status.SummaryType, now)
		if s.Trouble, s.ProgressAt = r.watch.trouble, instant(r.watch.at); r.watch.known {
			s.Lag = &furthest
		}
		s.PassedOver = r.watch.passedOver.standing(now)
		s.Term, s.Leader = r.inbox.leadership()
		tell(s)
		return false
	}
}

// countIn counts a proxy, and returns how far it is behind.
func (r *reporter) countIn(s *status.Summary, it *managed, now time.Time) (behind uint64) {
	s.Subscriptions++
	s.Add(it.proxy.Health, 1)
	switch it.proxy.Breaker.State() {
	case breaker.Open:
		s.Breakers.Open++
	case breaker.HalfOpen:
		s.Breakers.HalfOpen++
	default:
		s.Breakers.Closed++
	}
	if it.proxy.Registered {
		s.Registered++
	}
	if it.proxy.Verified {
		s.Verified++
	}
	if it.proxy.Refusal != "" {
		s.Refusing++
	}
	if moving, _ := r.moving(it); moving != "" {
		s.Moving++
	}
	if lag := r.watch.lag(it); lag != nil && *lag > 0 {
		s.Behind++
		behind = *lag
	}
	if r.watch.stalled(it, now) {
		s.Stalled++
	}
	return behind
}

func (r *reporter) status(it *managed, now time.Time) status.Status {
	p := &it.proxy
	moving, next := r.moving(it)
	s := status.Status{
		Envelope: status.NewEnvelope(status.StatusType, now),
		Store:    p.Store, Name: p.Name, SubscriptionType: p.Type, Selector: p.Selector,
		Health: p.Health, Breaker: p.Breaker.State(), Registered: p.Registered, Verified: p.Verified,
		Verification: "on", ConsecutiveFailures: p.Failures, LastSuccess: instant(p.LastSuccess), LastCause: p.Attempt.Cause,
		LastError: r.trouble(it, now), LatencyMS: float64(p.Latency.Microseconds()) / 1000, Revision: p.Record.Revision,
		Incarnation: p.Record.Incarnation, Owner: r.holder(p), ReportedBy: r.owner, NextAttemptAt: instant(next),
		HeldSince: instant(p.HeldSince), Moving: moving,
	}
	if !r.settings.Load().Verify {
		s.Verification = "off"
	}
	if it.endpoint != nil {
		c := it.endpoint.Counts()
		s.LastSeq, s.Delivered, s.DeliveryErrors, s.Parked, s.Sink = c.Last, c.Delivered, c.Errors, c.Parked, string(c.Kind)
		s.SinkState = status.SinkIdle
		switch {
		case p.Refusal != "":
			s.SinkState = status.SinkRefusing
		case c.Last > 0 || c.Delivered > 0:
			s.SinkState = status.SinkTaking
		}
		s.Lag, s.Stalled, s.PassedOver = r.watch.lag(it), r.watch.stalled(it, now), r.watch.passedOver.standing(now)
		if g, any := r.watch.gaps[p.Name]; any {
			s.Gap = &g
		}
	}
	return s
}

// trouble is what is wrong with a subscription; empty: nothing.
func (r *reporter) trouble(it *managed, now time.Time) string {
	if own := it.proxy.Trouble(); own != "" || !it.proxy.Hindered {
		return own
	}
	return r.watch.hindrance(it, now)
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// statuses tells the statuses of the proxies that a request names.
func (r *reporter) statuses(of control.Request, tell func([]status.Status)) work {
	return r.tell(slices.Clone(r.named(of.Name)), func(it *managed) bool { return !it.removed && (!of.Held || !r.idle(it)) }, tell)
}

// tell tells the statuses of those items that are to be told of.
func (r *reporter) tell(items []*managed, includes func(*managed) bool, tell func([]status.Status)) work {
	statuses := make([]status.Status, 0, len(items))
	return func(now time.Time, left *int) bool {
		for ; len(items) > 0; items = items[1:] {
			if *left <= 0 {
				return true
			}
			*left--
			if it := items[0]; includes(it) {
				statuses = append(statuses, r.status(it, now))
			}
		}
		tell(statuses)
		return false
	}
}
