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
	// alertWindow is how long alerts are gathered before they go out, so that a store that fails as a whole
	// is one alert.
	alertWindow = 200 * time.Millisecond
	// maxAlerts is how many alerts of their own go out together; more become one for the store.
	maxAlerts = 20
	// maxKept bounds the alerts kept for the connection to come back; the oldest are dropped first.
	maxKept = 1000
)

// storeAlert is the alert for the whole store. It stands while it has any reason to, and is resolved once.
type storeAlert struct {
	level    status.Level // that stands; empty: none
	covered  int          // proxies that it stands for
	trouble  bool         // it stands for what keeps the store's events from coming
	unparked bool         // it stands for what can't be parked
	// passedOver: it stands for messages that are no events.
	passedOver bool
	// inherited are the runs, by instance, that raised one and are gone.
	inherited map[string]registration.Owner
}

// alerter raises alerts, and resolves them. It belongs to the loop's goroutine.
type alerter struct {
	*roster
	watch    *watch
	reporter *reporter

	changed   map[*managed]breaker.Health // entered since changedAt
	changedAt time.Time
	standing  storeAlert
	unparked  unparked
	kept      []status.Alert // raised while there was no connection
}

// entered notes that a proxy entered a health.
func (al *alerter) entered(it *managed, h breaker.Health, now time.Time) {
	if h == breaker.Healthy && !it.alone && !it.covered {
		delete(al.changed, it)
		return
	}
	if al.changed == nil {
		al.changed = map[*managed]breaker.Health{}
	}
	if len(al.changed) == 0 {
		al.changedAt = now
	}
	al.changed[it] = h
}

// alert sends what the gathered health changes amount to: one alert for the store where most of its proxies
// are failing, else one for each. Failing counts, not how many reached a level: jitter spreads over seconds
// what happens to all.
func (al *alerter) alert(now time.Time, wake *time.Time) {
	if len(al.changed) == 0 {
		return
	}
	if due := al.changedAt.Add(alertWindow); now.Before(due) {
		sooner(wake, due)
		return
	}
	changed := al.changed
	al.changed = nil
	for _, h := range []breaker.Health{breaker.Failed, breaker.Degraded} {
		al.raise(al.pick(changed, h, now), h, now)
	}
	al.resolve(changed, now)
}

// pick leaves out those whose events don't come because the store's don't, for which the store's alert
// stands.
func (al *alerter) pick(changed map[*managed]breaker.Health, h breaker.Health, now time.Time) (items []*managed) {
	for it, entered := range changed {
		if entered == h && !it.removed && al.ownTrouble(it, now) != "" {
			items = append(items, it)
		}
	}
	return items
}

// ownTrouble is what is wrong with one subscription, whatever is wrong with its store.
func (al *alerter) ownTrouble(it *managed, now time.Time) string {
	if own := it.proxy.Trouble(); own != "" || !it.proxy.Hindered {
		return own
	}
	return al.watch.ownHindrance(it, now)
}

func (al *alerter) raise(items []*managed, h breaker.Health, now time.Time) {
	if len(items) == 0 {
		return
	}
	level := status.Warning
	if h == breaker.Failed {
		level = status.Critical
	}
	failing := 0
	for _, it := range al.items {
		if al.ownTrouble(it, now) != "" {
			failing++
		}
	}
	together := failing > 1 && 2*failing > len(al.items) || len(items) > maxAlerts
	if !together {
		for _, it := range items {
			it.alone = true
			al.sendAlert(level, it, h, now)
		}
		return
	}
	a := &al.standing
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
		al.sendStoreAlert(level, al.together(items[0], h, n, now), items[0], h, n, now)
	}
}

// together says what most of the store's subscriptions have in common, by one of them.
func (al *alerter) together(sample *managed, h breaker.Health, n int, now time.Time) string {
	p := &sample.proxy
	switch {
	case p.Failures > 0:
		return fmt.Sprintf("%d of the store's %d subscriptions fail to register; the first are %s", n, len(al.items), h)
	case p.Refusal != "":
		return fmt.Sprintf("the subscribers of %d of the store's %d subscriptions take no events", n, len(al.items))
	default:
		return fmt.Sprintf("%d of the store's %d subscriptions get no events; the first, %s, is %s", n, len(al.items), p.Name, al.watch.ownHindrance(sample, now))
	}
}

// alertStore raises the store's alert for what keeps its events from coming, or takes that reason back
// where it is empty.
func (al *alerter) alertStore(trouble string, now time.Time) {
	a := &al.standing
	switch {
	case trouble != "":
		a.trouble = true
		delete(a.inherited, al.owner.Name) // this one is in its place
		if a.level == "" {
			a.level = status.Warning
		}
		al.sendStoreAlert(status.Warning, trouble, nil, breaker.Degraded, al.holds(), now)
	case a.trouble:
		a.trouble = false
		message := "events of the store come again"
		if !al.holdsAny() {
			message = "none of the store's subscriptions is held here any more"
		}
		al.lowerStore(message, nil, now)
	}
}

func (al *alerter) resolve(changed map[*managed]breaker.Health, now time.Time) {
	for it, h := range changed {
		if h == breaker.Healthy || h == breaker.Standby || it.removed {
			al.lower(it, now)
		}
	}
}

// lower takes back the alerts that stand for an item: its own, and the store's with the last item that it
// stands for.
func (al *alerter) lower(it *managed, now time.Time) {
	if it.alone {
		it.alone = false
		al.sendAlert(status.Resolved, it, it.proxy.Health, now)
	}
	if !it.covered {
		return
	}
	it.covered = false
	if al.standing.covered--; al.standing.covered == 0 {
		message := "the store's subscriptions are well again"
		if it.removed {
			message = "the store's failing subscriptions are no longer held here"
		}
		al.lowerStore(message, it, now)
	}
}

// lowerStore takes back the store's alert, where nothing else is a reason for it.
func (al *alerter) lowerStore(message string, sample *managed, now time.Time) {
	a := &al.standing
	switch {
	case a.covered > 0: // it stands for subscriptions that fail
	case (a.trouble || a.unparked) && a.level == status.Warning:
	case a.trouble:
		a.level = status.Warning
		al.sendStoreAlert(status.Warning, al.watch.trouble, sample, breaker.Degraded, al.holds(), now)
	case a.unparked:
		al.raiseUnparked(now)
	case a.passedOver:
		a.level = status.Warning
		al.raisePassedOver(now)
	default:
		a.level = ""
		h := breaker.Healthy
		if sample != nil {
			h = sample.proxy.Health
		}
		al.sendStoreAlert(status.Resolved, message, sample, h, len(al.items), now)
	}
}

func (al *alerter) sendAlert(level status.Level, it *managed, h breaker.Health, now time.Time) {
	p := &it.proxy
	a := status.Alert{
		Envelope: status.NewEnvelope(status.AlertType, now), Level: level, Scope: "proxy", Store: al.store, Name: p.Name, Health: h,
		Affected: 1, Subscriptions: len(al.items), ConsecutiveFailures: p.Failures, LastError: al.reporter.trouble(it, now), Owner: al.owner,
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
	al.logAlert(&a, "subscription", p.Name)
	al.sendOrKeep(a)
}

// sendStoreAlert sends one of scope store. The sample is one of the subscriptions that it stands for; nil:
// it stands for the store.
func (al *alerter) sendStoreAlert(level status.Level, message string, sample *managed, h breaker.Health, affected int, now time.Time) {
	a := status.Alert{
		Envelope: status.NewEnvelope(status.AlertType, now), Level: level, Scope: "store", Store: al.store, Health: h,
		Affected: affected, Subscriptions: len(al.items), Message: message, LastError: al.watch.trouble, Owner: al.owner,
	}
	if sample != nil {
		a.ConsecutiveFailures, a.LastError = sample.proxy.Failures, al.reporter.trouble(sample, now)
	}
	al.logAlert(&a, "subscriptions", affected)
	al.sendOrKeep(a)
}

func (al *alerter) sendOrKeep(a status.Alert) {
	if al.connected() {
		al.publishAlert(a)
		return
	}
	if len(al.kept) == maxKept {
		// The oldest goes, but no resolved: what was raised before is waiting for it.
		oldest := slices.IndexFunc(al.kept, func(a status.Alert) bool { return a.Level != status.Resolved })
		al.kept = slices.Delete(al.kept, max(oldest, 0), max(oldest, 0)+1)
	}
	al.kept = append(al.kept, a)
}

// publishKept publishes what was raised while there was no connection.
func (al *alerter) publishKept() {
	for _, a := range al.kept {
		al.publishAlert(a)
	}
	al.kept = nil
}

func (al *alerter) publishAlert(a status.Alert) {
	if al.alerts != nil {
		al.alerts.Publish(a)
		return
	}
	al.send("alert", status.AlertSubject(a.Store, a.Name), a)
}

func (al *alerter) logAlert(a *status.Alert, key string, value any) {
	al.metrics.Alerts.WithLabelValues(string(a.Level), a.Scope).Inc()
	switch a.Level {
	case status.Critical:
		al.log.Error(a.Message, key, value, "health", a.Health, "failures", a.ConsecutiveFailures, "error", a.LastError)
	case status.Warning:
		al.log.Warn(a.Message, key, value, "health", a.Health, "failures", a.ConsecutiveFailures, "error", a.LastError)
	default:
		al.log.Info(a.Message, key, value, "health", a.Health)
	}
}
