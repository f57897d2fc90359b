package proxy

import (
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/health"
)

const (
	// alertWindow is how long alerts are gathered before they go out, so that a store that fails as a whole is one alert.
	alertWindow = 200 * time.Millisecond
	// maxAlerts is how many alerts of their own go out together; more become one for the store.
	maxAlerts = 20
	// maxKept bounds the alerts kept for the connection to come back; the oldest are dropped first.
	maxKept = 1000
)

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
		if it.proxy.trouble() != "" {
			failing++
		}
	}
	together := failing > 1 && 2*failing > len(l.items) || len(items) > maxAlerts
	if !together {
		for _, it := range items {
			it.alone = true
			l.sendAlert(level, it, h, now)
		}
		return
	}
	for _, it := range items {
		if !it.covered {
			it.covered = true
			l.report.covered++
		}
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

// lower takes back the alerts that stand for an item: its own, and the store's with the last item that it stands for.
func (l *loop) lower(it *item, now time.Time) {
	if it.alone {
		it.alone = false
		l.sendAlert(health.Resolved, it, it.proxy.Health, now)
	}
	if !it.covered {
		return
	}
	it.covered = false
	if l.report.covered--; l.report.covered == 0 {
		l.report.storeLevel = ""
		l.sendStoreAlert(health.Resolved, it, it.proxy.Health, len(l.items), now)
	}
}

func (l *loop) sendAlert(level health.Level, it *item, h breaker.Health, now time.Time) {
	p := &it.proxy
	a := health.Alert{
		Envelope: health.NewEnvelope(health.AlertType, now), Level: level, Scope: "proxy", Store: l.store, Name: p.Name, Health: h,
		Affected: 1, Subscriptions: len(l.items), ConsecutiveFailures: p.Failures, LastError: p.trouble(), Owner: l.owner,
	}
	switch {
	case level == health.Resolved && it.removed:
		a.Message = fmt.Sprintf("%s is no longer held here", p.Subscription)
	case level == health.Resolved:
		a.Message = fmt.Sprintf("%s is %s again", p.Subscription, h)
	case p.Failures == 0:
		a.Message = fmt.Sprintf("%s is %s: its subscriber takes no events", p.Subscription, h)
	default:
		a.Message = fmt.Sprintf("%s is %s after %d failed registrations", p.Subscription, h, p.Failures)
	}
	l.logAlert(&a, "subscription", p.Name)
	l.sendOrKeep(a)
}

func (l *loop) sendStoreAlert(level health.Level, sample *item, h breaker.Health, affected int, now time.Time) {
	a := health.Alert{
		Envelope: health.NewEnvelope(health.AlertType, now), Level: level, Scope: "store", Store: l.store, Health: h,
		Affected: affected, Subscriptions: len(l.items), ConsecutiveFailures: sample.proxy.Failures, LastError: sample.proxy.trouble(), Owner: l.owner,
	}
	a.Message = fmt.Sprintf("%d of the store's %d subscriptions fail to register; the first are %s", affected, len(l.items), h)
	switch {
	case level != health.Resolved && sample.proxy.Failures == 0:
		a.Message = fmt.Sprintf("the subscribers of %d of the store's %d subscriptions take no events", affected, len(l.items))
	case level == health.Resolved && sample.removed:
		a.Message = "the store's failing subscriptions are no longer held here"
	case level == health.Resolved:
		a.Message = "the store's subscriptions are well again"
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
