package supervisor

import (
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/status"
)

// gapAgain is the least time between two alerts about one subscription that loses more and more.
const gapAgain = time.Minute

// gapAlerts are the alerts about what subscriptions lost, by name.
type gapAlerts map[string]gapAlert

type gapAlert struct {
	gap event.Gap
	at  time.Time
}

// due reports whether a gap is worth an alert: it is not the one of the last alert, which was a while ago.
func (a *gapAlerts) due(name string, g event.Gap, now time.Time) bool {
	last, any := (*a)[name]
	if any && (last.gap.At.Equal(g.At) || now.Sub(last.at) < gapAgain) {
		return false
	}
	if *a == nil {
		*a = gapAlerts{}
	}
	(*a)[name] = gapAlert{g, now}
	return true
}

// keep forgets those that are not told any more.
func (a gapAlerts) keep(gaps map[string]event.Gap) {
	for name := range a {
		if _, told := gaps[name]; !told {
			delete(a, name)
		}
	}
}

// gapOf is what a subscription lost, in words that go on with what it does; empty: nothing.
func (w *watch) gapOf(it *managed) string {
	g, any := w.gaps[it.proxy.Name]
	if !any {
		return ""
	}
	return g.String()
}

// alertGaps raises an alert for each subscription that lost something since. It is one of its own: where
// the subscription is degraded for another reason already, the alert for that does not say what is gone.
func (al *alerter) alertGaps(now time.Time) {
	w := al.watch
	var lost []*managed
	for name, g := range w.gaps {
		it := al.byName[name]
		if it == nil || it.endpoint == nil || !w.gapAlerts.due(name, g, now) {
			continue
		}
		al.reporter.mark(it, proxy.Soon)
		if holds := w.waiting[name] != ""; !holds || it.proxy.Health != breaker.Healthy { // else it becomes degraded, which is an alert
			lost = append(lost, it)
		}
	}
	w.gapAlerts.keep(w.gaps)
	if len(lost) > maxAlerts {
		al.alertGapsTogether(lost, now)
		return
	}
	for _, it := range lost {
		it.alone = true
		a := status.Alert{
			Envelope: status.NewEnvelope(status.AlertType, now), Level: status.Warning, Scope: "proxy", Store: al.store, Name: it.proxy.Name,
			Health: breaker.Degraded, Affected: 1, Subscriptions: len(al.items), ConsecutiveFailures: it.proxy.Failures,
			Message: fmt.Sprintf("%s: %s", it.proxy.Subscription, al.watch.gapOf(it)), LastError: al.watch.gapOf(it), Owner: al.owner,
		}
		al.logAlert(&a, "subscription", it.proxy.Name)
		al.sendOrKeep(a)
	}
}

// alertGapsTogether is for when many lost something at once, which is one alert for the store.
func (al *alerter) alertGapsTogether(lost []*managed, now time.Time) {
	a := &al.standing
	for _, it := range lost {
		if !it.covered {
			it.covered = true
			a.covered++
		}
	}
	if a.level == "" {
		a.level = status.Warning
	}
	message := fmt.Sprintf("%d of the store's %d subscriptions lost events; of the first, %s, %s", len(lost), len(al.items), lost[0].proxy.Name, al.watch.gapOf(lost[0]))
	al.sendStoreAlert(status.Warning, message, lost[0], breaker.Degraded, len(lost), now)
}
