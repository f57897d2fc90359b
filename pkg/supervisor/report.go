package supervisor

import (
	"encoding/json"
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

const (
	// soonDelay is how long a status that only changed in detail may wait, so that statuses don't compete with a round.
	soonDelay = time.Second
	// publishSlice is how many statuses are published between two looks at the inbox.
	publishSlice = 500
	// pause is how soon the loop goes on publishing after a slice.
	pause = 2 * time.Millisecond
)

// report is what the loop has to tell the outside and has not told yet.
type report struct {
	atOnce []*managed
	soon   []*managed
	soonAt time.Time // when the first of soon may wait no longer

	changed   map[*managed]breaker.Health // entered since changedAt
	changedAt time.Time
	store     storeAlert
	kept      []status.Alert // raised while there was no connection

	beatAt    time.Time // when the next heartbeat slice is due
	beatPlace int       // the item it begins with
	summaryAt time.Time
}

func (r *report) entered(it *managed, h breaker.Health, now time.Time) {
	if h == breaker.Healthy && !it.alone && !it.covered {
		delete(r.changed, it)
		return
	}
	if r.changed == nil {
		r.changed = map[*managed]breaker.Health{}
	}
	if len(r.changed) == 0 {
		r.changedAt = now
	}
	r.changed[it] = h
}

func (l *loop) mark(it *managed, u proxy.Urgency) {
	if u <= it.dirty || it.removed {
		return
	}
	it.dirty = u
	if u == proxy.AtOnce {
		l.report.atOnce = append(l.report.atOnce, it)
		return
	}
	if len(l.report.soon) == 0 {
		l.report.soonAt = time.Now().Add(soonDelay)
	}
	l.report.soon = append(l.report.soon, it)
}

// publish tells what is due to be told. While there is no connection, alerts are kept and statuses are not: an alert is
// what happened, a status is what is.
func (l *loop) publish(now time.Time, wake *time.Time) {
	l.alert(now, wake)
	l.alertUnparked(now, wake)
	if !l.connected() {
		sooner(wake, now.Add(soonDelay))
		return
	}
	r := &l.report
	for _, a := range r.kept {
		l.publishAlert(a)
	}
	r.kept = nil
	left := publishSlice
	l.flush(&r.atOnce, now, &left)
	if l.flight == 0 || !now.Before(r.soonAt) {
		l.flush(&r.soon, now, &left)
	} else if len(r.soon) > 0 {
		sooner(wake, r.soonAt)
	}
	l.heartbeat(now, &left, wake)
	l.summarize(now, wake)
	if len(r.atOnce) > 0 || len(r.soon) > 0 && left <= 0 {
		sooner(wake, now.Add(pause))
	}
}

func sooner(wake *time.Time, at time.Time) {
	if at.Before(*wake) {
		*wake = at
	}
}

// flush publishes the statuses of as many items as are left to publish, and leaves the rest queued.
func (l *loop) flush(queue *[]*managed, now time.Time, left *int) {
	for n := 0; len(*queue) > 0 && *left > 0; n++ {
		it := (*queue)[0]
		*queue = (*queue)[1:]
		if it.dirty != proxy.NotNow && !it.removed {
			it.dirty = proxy.NotNow
			l.send("status", status.StatusSubject(l.store, it.proxy.Name), l.status(it, now))
			*left--
		}
		l.breathe(n)
	}
	if len(*queue) == 0 {
		*queue = nil
	}
}

// heartbeat repeats every status once an interval, a slice at a time: ten slices a second, each with the share that
// falls to a tenth of a second, begin where the last one ended.
func (l *loop) heartbeat(now time.Time, left *int, wake *time.Time) {
	const tick = 100 * time.Millisecond
	r := &l.report
	interval := l.settings.Load().HeartbeatInterval
	if len(l.items) == 0 || *left <= 0 {
		return
	}
	if now.Before(r.beatAt) {
		sooner(wake, r.beatAt)
		return
	}
	share := len(l.items)
	wait := interval
	if slices := int(interval / tick); share > slices && slices > 0 {
		share, wait = (share+slices-1)/slices, tick
	} else {
		share, wait = 1, interval/time.Duration(share)
	}
	for n := range share {
		l.breathe(n)
		r.beatPlace = (r.beatPlace + 1) % len(l.items)
		it := l.items[r.beatPlace]
		if it.proxy.Standby && it.proxy.Health == breaker.Standby {
			continue // its holder's is the one to repeat
		}
		it.dirty = proxy.NotNow
		l.send("status", status.StatusSubject(l.store, it.proxy.Name), l.status(it, now))
	}
	r.beatAt = now.Add(backoff.Spread(wait, backoff.Jitter()))
	sooner(wake, r.beatAt)
}

func (l *loop) summarize(now time.Time, wake *time.Time) {
	r := &l.report
	if now.Before(r.summaryAt) {
		sooner(wake, r.summaryAt)
		return
	}
	r.summaryAt = now.Add(backoff.Spread(l.settings.Load().SummaryInterval, backoff.Jitter()))
	sooner(wake, r.summaryAt)
	l.send("summary", status.SummarySubject(l.store), l.summary(now))
}

func (l *loop) summary(now time.Time) status.Summary {
	s := status.Summary{Envelope: status.NewEnvelope(status.SummaryType, now), Store: l.store, Owner: l.owner, Subscriptions: len(l.items)}
	furthest := uint64(0)
	for i, it := range l.items {
		l.breathe(i)
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
		if moving, _ := l.moving(it); moving != "" {
			s.Moving++
		}
		if lag := l.lag(it); lag != nil && *lag > 0 {
			s.Behind++
			furthest = max(furthest, *lag)
		}
		if l.stalled(it, now) {
			s.Stalled++
		}
	}
	if s.Trouble, s.ProgressAt = l.watch.trouble, instant(l.watch.at); l.watch.known {
		s.Lag = &furthest
	}
	s.PassedOver = l.watch.passedOver.standing(now)
	s.Term, s.Leader = l.inbox.leadership()
	return s
}

func (l *loop) status(it *managed, now time.Time) status.Status {
	p := &it.proxy
	moving, next := l.moving(it)
	s := status.Status{
		Envelope: status.NewEnvelope(status.StatusType, now),
		Store:    p.Store, Name: p.Name, SubscriptionType: p.Type, Selector: p.Selector,
		Health: p.Health, Breaker: p.Breaker.State(), Registered: p.Registered, Verified: p.Verified,
		Verification: "on", ConsecutiveFailures: p.Failures, LastSuccess: instant(p.LastSuccess), LastCause: p.Cause,
		LastError: l.trouble(it, now), LatencyMS: float64(p.Latency.Microseconds()) / 1000, Revision: p.Revision,
		Incarnation: p.Incarnation, Owner: l.holder(p), ReportedBy: l.owner, NextAttemptAt: instant(next),
		HeldSince: instant(p.HeldSince), Moving: moving,
	}
	if !l.settings.Load().Verify {
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
		s.Lag, s.Stalled, s.PassedOver = l.lag(it), l.stalled(it, now), l.watch.passedOver.standing(now)
		if g, any := l.watch.gaps[p.Name]; any {
			s.Gap = &g
		}
	}
	return s
}

// trouble is what is wrong with a subscription; empty: nothing.
func (l *loop) trouble(it *managed, now time.Time) string {
	if own := it.proxy.Trouble(); own != "" || !it.proxy.Hindered {
		return own
	}
	return l.hindrance(it, now)
}

// holder is who is known to hold the subscription; nobody where it is not registered.
func (l *loop) holder(p *proxy.Proxy) registration.Owner {
	if p.Standby || !p.Started {
		if p.Holder != nil {
			return *p.Holder
		}
		return registration.Owner{}
	}
	return l.owner
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func (l *loop) send(message, subject string, payload any) {
	data, err := json.Marshal(payload)
	if err == nil {
		err = l.publisher(subject, data)
	}
	if err != nil {
		l.untold(subject, err)
		return
	}
	l.metrics.Published.WithLabelValues(message).Inc()
}
