package proxy

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/health"
	"github.com/exesdb/subproxy/pkg/registry"
)

// scope is what an alert that stands was raised for.
type scope uint8

const (
	noAlert scope = iota
	proxyAlert
	storeAlert
)

const (
	// alertWindow is how long alerts are gathered before they go out, so that a store that fails as a whole is one alert.
	alertWindow = 200 * time.Millisecond
	// maxAlerts is how many alerts of their own go out together; more become one for the store.
	maxAlerts = 20
	// soonDelay is how long a status that only changed in detail may wait, so that statuses don't compete with a round.
	soonDelay = time.Second
	// publishSlice is how many statuses are published between two looks at the inbox.
	publishSlice = 500
	// maxKept bounds the alerts kept for the connection to come back; the oldest are dropped first.
	maxKept = 1000
	// pause is how soon the loop goes on publishing after a slice.
	pause = 2 * time.Millisecond
)

// report is what the loop has to tell the outside and has not told yet.
type report struct {
	atOnce []*item
	soon   []*item
	soonAt time.Time // when the first of soon may wait no longer

	changed    map[*item]breaker.Health // entered since changedAt
	changedAt  time.Time
	storeLevel health.Level   // of the store-wide alert that stands; empty: none
	covered    int            // proxies that the store-wide alert stands for
	kept       []health.Alert // raised while there was no connection

	beatAt    time.Time // when the next heartbeat slice is due
	beatPlace int       // the item it begins with
	summaryAt time.Time
}

func (r *report) entered(it *item, h breaker.Health, now time.Time) {
	if h == breaker.Healthy && it.raised == noAlert {
		delete(r.changed, it)
		return
	}
	if r.changed == nil {
		r.changed = map[*item]breaker.Health{}
	}
	if len(r.changed) == 0 {
		r.changedAt = now
	}
	r.changed[it] = h
}

func (l *loop) mark(it *item, u Urgency) {
	if u <= it.dirty || it.removed {
		return
	}
	it.dirty = u
	if u == AtOnce {
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
	if !l.connected() {
		sooner(wake, now.Add(soonDelay))
		return
	}
	r := &l.report
	for _, a := range r.kept {
		l.send("alert", health.AlertSubject(a.Store, a.Name), a)
	}
	r.kept = nil
	left := publishSlice
	r.atOnce = l.flush(r.atOnce, now, &left)
	if l.flight == 0 || now.After(r.soonAt) {
		r.soon = l.flush(r.soon, now, &left)
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

// flush publishes the statuses of as many items as are left to publish, and returns the rest.
func (l *loop) flush(items []*item, now time.Time, left *int) []*item {
	for n, it := range items {
		if *left <= 0 {
			return items[n:]
		}
		if it.dirty != NotNow && !it.removed {
			it.dirty = NotNow
			l.send("status", health.StatusSubject(l.store, it.proxy.Name), l.status(it, now))
			*left--
		}
	}
	return nil
}

// heartbeat repeats every status once an interval, a slice at a time: ten slices a second, each with the share that
// falls to a tenth of a second, begin where the last one ended.
func (l *loop) heartbeat(now time.Time, left *int, wake *time.Time) {
	const tick = 100 * time.Millisecond
	r := &l.report
	interval := l.settings.Load().HeartbeatInterval
	if now.Before(r.beatAt) || len(l.items) == 0 || *left <= 0 {
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
	for range share {
		r.beatPlace = (r.beatPlace + 1) % len(l.items)
		it := l.items[r.beatPlace]
		it.dirty = NotNow
		l.send("status", health.StatusSubject(l.store, it.proxy.Name), l.status(it, now))
	}
	r.beatAt = now.Add(breaker.Spread(wait, l.jitter()))
	sooner(wake, r.beatAt)
}

// alert sends what the gathered health changes amount to: one alert for the store where most of its proxies are failing,
// else one for each. Failing counts, not how many reached a level: jitter spreads over seconds what happens to all.
func (l *loop) alert(now time.Time, wake *time.Time) {
	r := &l.report
	if len(r.changed) == 0 {
		return
	}
	if due := r.changedAt.Add(alertWindow); now.Before(due) {
		sooner(wake, due)
		return
	}
	changed := r.changed
	r.changed = nil
	for _, h := range []breaker.Health{breaker.Failed, breaker.Degraded} {
		l.raise(pick(changed, h), h, now)
	}
	l.resolve(changed, now)
}

func pick(changed map[*item]breaker.Health, h breaker.Health) (items []*item) {
	for it, entered := range changed {
		if entered == h && !it.removed {
			items = append(items, it)
		}
	}
	return items
}

func (l *loop) raise(items []*item, h breaker.Health, now time.Time) {
	if len(items) == 0 {
		return
	}
	level := health.Warning
	if h == breaker.Failed {
		level = health.Critical
	}
	failing := 0
	for _, it := range l.items {
		if it.proxy.Failures > 0 {
			failing++
		}
	}
	together := failing > 1 && 2*failing > len(l.items) || len(items) > maxAlerts
	if !together {
		for _, it := range items {
			if it.raised == storeAlert {
				l.report.covered--
			}
			it.raised = proxyAlert
			l.sendAlert(level, it, h, 1, now)
		}
		return
	}
	for _, it := range items {
		if it.raised != storeAlert {
			l.report.covered++
		}
		it.raised = storeAlert
	}
	if l.report.storeLevel != level && l.report.storeLevel != health.Critical {
		l.report.storeLevel = level
		l.sendStoreAlert(level, items[0], h, max(failing, len(items)), now)
	}
}

func (l *loop) resolve(changed map[*item]breaker.Health, now time.Time) {
	for it, h := range changed {
		if h == breaker.Healthy || h == breaker.Standby || it.removed {
			l.lower(it, now)
		}
	}
}

// lower takes back the alert that stands for an item.
func (l *loop) lower(it *item, now time.Time) {
	switch it.raised {
	case proxyAlert:
		l.sendAlert(health.Resolved, it, it.proxy.Health, 1, now)
	case storeAlert:
		if l.report.covered--; l.report.covered == 0 {
			l.report.storeLevel = ""
			l.sendStoreAlert(health.Resolved, it, it.proxy.Health, len(l.items), now)
		}
	}
	it.raised = noAlert
}

func (l *loop) sendAlert(level health.Level, it *item, h breaker.Health, affected int, now time.Time) {
	p := &it.proxy
	a := health.Alert{
		Envelope: health.NewEnvelope(health.AlertType, now), Level: level, Scope: "proxy", Store: l.store, Name: p.Name, Health: h,
		Affected: affected, Subscriptions: len(l.items), ConsecutiveFailures: p.Failures, LastError: p.LastError, Owner: l.owner,
	}
	switch level {
	case health.Resolved:
		a.Message = fmt.Sprintf("%s is %s again", p.Subscription, h)
	default:
		a.Message = fmt.Sprintf("%s is %s after %d failed registrations", p.Subscription, h, p.Failures)
	}
	l.logAlert(&a, "subscription", p.Name)
	l.sendOrKeep(a)
}

func (l *loop) sendStoreAlert(level health.Level, sample *item, h breaker.Health, affected int, now time.Time) {
	a := health.Alert{
		Envelope: health.NewEnvelope(health.AlertType, now), Level: level, Scope: "store", Store: l.store, Health: h,
		Affected: affected, Subscriptions: len(l.items), ConsecutiveFailures: sample.proxy.Failures, LastError: sample.proxy.LastError, Owner: l.owner,
	}
	a.Message = fmt.Sprintf("%d of the store's %d subscriptions fail to register; the first are %s", affected, len(l.items), h)
	if level == health.Resolved {
		a.Message = "the store's subscriptions are registered again"
	}
	l.logAlert(&a, "subscriptions", affected)
	l.sendOrKeep(a)
}

func (l *loop) sendOrKeep(a health.Alert) {
	if l.connected() {
		l.send("alert", health.AlertSubject(a.Store, a.Name), a)
		return
	}
	r := &l.report
	if len(r.kept) == maxKept {
		r.kept = r.kept[1:]
	}
	r.kept = append(r.kept, a)
}

func (l *loop) logAlert(a *health.Alert, key string, value any) {
	l.metrics.Alerts.WithLabelValues(string(a.Level), a.Scope).Inc()
	switch a.Level {
	case health.Critical:
		l.log.Error(a.Message, key, value, "health", a.Health, "failures", a.ConsecutiveFailures, "error", a.LastError)
	case health.Warning:
		l.log.Warn(a.Message, key, value, "health", a.Health, "failures", a.ConsecutiveFailures, "error", a.LastError)
	default:
		l.log.Info(a.Message, key, value, "health", a.Health)
	}
}

func (l *loop) summarize(now time.Time, wake *time.Time) {
	r := &l.report
	if now.Before(r.summaryAt) {
		sooner(wake, r.summaryAt)
		return
	}
	r.summaryAt = now.Add(breaker.Spread(l.settings.Load().SummaryInterval, l.jitter()))
	sooner(wake, r.summaryAt)
	l.send("summary", health.SummarySubject(l.store), l.summary(now))
}

func (l *loop) summary(now time.Time) health.Summary {
	s := health.Summary{Envelope: health.NewEnvelope(health.SummaryType, now), Store: l.store, Owner: l.owner, Subscriptions: len(l.items)}
	for _, it := range l.items {
		*s.Of(it.proxy.Health)++
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
	}
	s.Term, s.Leader = l.inbox.leadership()
	return s
}

func (l *loop) status(it *item, now time.Time) health.Status {
	p := &it.proxy
	s := health.Status{
		Envelope: health.NewEnvelope(health.StatusType, now),
		Store:    p.Store, Name: p.Name, SubscriptionType: p.Type, Selector: p.Selector,
		Health: p.Health, Breaker: p.Breaker.State(), Registered: p.Registered, Verified: p.Verified,
		Verification: "on", ConsecutiveFailures: p.Failures, LastSuccess: instant(p.LastSuccess), LastCause: p.Cause,
		LastError: p.LastError, LatencyMS: float64(p.Latency.Microseconds()) / 1000, Revision: p.Revision,
		Incarnation: p.Incarnation, Owner: l.holder(p), NextAttemptAt: instant(p.Next),
	}
	if !l.settings.Load().Verify {
		s.Verification = "off"
	}
	return s
}

// holder is who is known to hold the subscription; nobody where it is not registered.
func (l *loop) holder(p *Proxy) registry.Owner {
	if p.Standby || !p.Started {
		return p.Holder
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
		l.log.Debug("a message could not be published", "subject", subject, "error", err)
		return
	}
	l.metrics.Published.WithLabelValues(message).Inc()
}
