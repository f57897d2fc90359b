package supervisor

import (
	"fmt"
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

const (
	// alertWindow is how long alerts are gathered before they go out, so that a store that fails as a whole is one alert.
	alertWindow = 200 * time.Millisecond
	// maxAlerts is how many alerts of their own go out together; more become one for the store.
	maxAlerts = 20
	// maxKept bounds the alerts kept for the connection to come back; the oldest are dropped first.
	maxKept = 1000
)

// storeAlert is the alert for the whole store. It stands while it has any reason to, and is resolved once.
type storeAlert struct {
	level   status.Level // that stands; empty: none
	covered int          // proxies that it stands for
	trouble bool         // it stands for what keeps the store's events from coming
	lot     bool         // it stands for what can't be parked
	// passedOver: it stands for messages that are no events.
	passedOver bool
	// inherited are the runs, by instance, that raised one and are gone.
	inherited map[string]registration.Owner
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
		l.raise(l.pick(changed, h, now), h, now)
	}
	l.resolve(changed, now)
}

// pick leaves out those whose events don't come because the store's don't, for which the store's alert stands.
func (l *loop) pick(changed map[*managed]breaker.Health, h breaker.Health, now time.Time) (items []*managed) {
	for it, entered := range changed {
		if entered == h && !it.removed && l.ownTrouble(it, now) != "" {
			items = append(items, it)
		}
	}
	return items
}

// ownTrouble is what is wrong with one subscription, whatever is wrong with its store.
func (l *loop) ownTrouble(it *managed, now time.Time) string {
	if own := it.proxy.Trouble(); own != "" || !it.proxy.Hindered {
		return own
	}
	return l.ownHindrance(it, now)
}

func (l *loop) raise(items []*managed, h breaker.Health, now time.Time) {
	if len(items) == 0 {
		return
	}
	level := status.Warning
	if h == breaker.Failed {
		level = status.Critical
	}
	failing := 0
	for _, it := range l.items {
		if l.ownTrouble(it, now) != "" {
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
	a := &l.report.store
	first := a.covered == 0
	for _, it := range items {
		if !it.covered {
			it.covered = true
			a.covered++
		}
	}
	if first || level == status.Critical && a.level != status.Critical {
		a.level = level
		n := max(failing, len(items))
		l.sendStoreAlert(level, l.together(items[0], h, n, now), items[0], h, n, now)
	}
}

// together says what most of the store's subscriptions have in common, by one of them.
func (l *loop) together(sample *managed, h breaker.Health, n int, now time.Time) string {
	p := &sample.proxy
	switch {
	case p.Failures > 0:
		return fmt.Sprintf("%d of the store's %d subscriptions fail to register; the first are %s", n, len(l.items), h)
	case p.Refusal != "":
		return fmt.Sprintf("the subscribers of %d of the store's %d subscriptions take no events", n, len(l.items))
	default:
		return fmt.Sprintf("%d of the store's %d subscriptions get no events; the first, %s, is %s", n, len(l.items), p.Name, l.ownHindrance(sample, now))
	}
}

// alertStore raises the store's alert for what keeps its events from coming, or takes that reason back where it is empty.
func (l *loop) alertStore(trouble string, now time.Time) {
	a := &l.report.store
	switch {
	case trouble != "":
		a.trouble = true
		delete(a.inherited, l.owner.Name) // this one is in its place
		if a.level == "" {
			a.level = status.Warning
		}
		l.sendStoreAlert(status.Warning, trouble, nil, breaker.Degraded, l.holds(), now)
	case a.trouble:
		a.trouble = false
		message := "events of the store come again"
		if !l.holdsAny() {
			message = "none of the store's subscriptions is held here any more"
		}
		l.lowerStore(message, nil, now)
	}
}

func (l *loop) resolve(changed map[*managed]breaker.Health, now time.Time) {
	for it, h := range changed {
		if h == breaker.Healthy || h == breaker.Standby || it.removed {
			l.lower(it, now)
		}
	}
}

// lower takes back the alerts that stand for an item: its own, and the store's with the last item that it stands for.
func (l *loop) lower(it *managed, now time.Time) {
	if it.alone {
		it.alone = false
		l.sendAlert(status.Resolved, it, it.proxy.Health, now)
	}
	if !it.covered {
		return
	}
	it.covered = false
	if l.report.store.covered--; l.report.store.covered == 0 {
		message := "the store's subscriptions are well again"
		if it.removed {
			message = "the store's failing subscriptions are no longer held here"
		}
		l.lowerStore(message, it, now)
	}
}

// lowerStore takes back the store's alert, where nothing else is a reason for it.
func (l *loop) lowerStore(message string, sample *managed, now time.Time) {
	a := &l.report.store
	switch {
	case a.covered > 0: // it stands for subscriptions that fail
	case (a.trouble || a.lot) && a.level == status.Warning:
	case a.trouble:
		a.level = status.Warning
		l.sendStoreAlert(status.Warning, l.watch.trouble, sample, breaker.Degraded, l.holds(), now)
	case a.lot:
		l.raiseLot(now)
	case a.passedOver:
		a.level = status.Warning
		l.raisePassedOver(now)
	default:
		a.level = ""
		h := breaker.Healthy
		if sample != nil {
			h = sample.proxy.Health
		}
		l.sendStoreAlert(status.Resolved, message, sample, h, len(l.items), now)
	}
}

func (l *loop) sendAlert(level status.Level, it *managed, h breaker.Health, now time.Time) {
	p := &it.proxy
	a := status.Alert{
		Envelope: status.NewEnvelope(status.AlertType, now), Level: level, Scope: "proxy", Store: l.store, Name: p.Name, Health: h,
		Affected: 1, Subscriptions: len(l.items), ConsecutiveFailures: p.Failures, LastError: l.trouble(it, now), Owner: l.owner,
	}
	switch {
	case level == status.Resolved && it.removed:
		a.Message = fmt.Sprintf("%s is no longer held here", p.Subscription)
	case level == status.Resolved:
		a.Message = fmt.Sprintf("%s is %s again", p.Subscription, h)
	case p.Failures > 0:
		a.Message = fmt.Sprintf("%s is %s after %d failed registrations", p.Subscription, h, p.Failures)
	case p.Refusal != "":
		a.Message = fmt.Sprintf("%s is %s: its subscriber takes no events", p.Subscription, h)
	default:
		a.Message = fmt.Sprintf("%s is %s: %s", p.Subscription, h, a.LastError)
	}
	l.logAlert(&a, "subscription", p.Name)
	l.sendOrKeep(a)
}

// sendStoreAlert sends one of scope store. The sample is one of the subscriptions that it stands for; nil: it stands for the store.
func (l *loop) sendStoreAlert(level status.Level, message string, sample *managed, h breaker.Health, affected int, now time.Time) {
	a := status.Alert{
		Envelope: status.NewEnvelope(status.AlertType, now), Level: level, Scope: "store", Store: l.store, Health: h,
		Affected: affected, Subscriptions: len(l.items), Message: message, LastError: l.watch.trouble, Owner: l.owner,
	}
	if sample != nil {
		a.ConsecutiveFailures, a.LastError = sample.proxy.Failures, l.trouble(sample, now)
	}
	l.logAlert(&a, "subscriptions", affected)
	l.sendOrKeep(a)
}

func (l *loop) sendOrKeep(a status.Alert) {
	if l.connected() {
		l.publishAlert(a)
		return
	}
	r := &l.report
	if len(r.kept) == maxKept {
		// The oldest goes, but no resolved: what was raised before is waiting for it.
		oldest := slices.IndexFunc(r.kept, func(a status.Alert) bool { return a.Level != status.Resolved })
		r.kept = slices.Delete(r.kept, max(oldest, 0), max(oldest, 0)+1)
	}
	r.kept = append(r.kept, a)
}

func (l *loop) publishAlert(a status.Alert) {
	if l.alerts != nil {
		l.alerts.Publish(a)
		return
	}
	l.send("alert", status.AlertSubject(a.Store, a.Name), a)
}

func (l *loop) logAlert(a *status.Alert, key string, value any) {
	l.metrics.Alerts.WithLabelValues(string(a.Level), a.Scope).Inc()
	switch a.Level {
	case status.Critical:
		l.log.Error(a.Message, key, value, "health", a.Health, "failures", a.ConsecutiveFailures, "error", a.LastError)
	case status.Warning:
		l.log.Warn(a.Message, key, value, "health", a.Health, "failures", a.ConsecutiveFailures, "error", a.LastError)
	default:
		l.log.Info(a.Message, key, value, "health", a.Health)
	}
}
