package supervisor

import (
	"fmt"
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

// Alerts publishes alerts, and remembers which stand beyond the life of this run. Its methods are called by the stores' loops and
// must not block.
type Alerts interface {
	Publish(status.Alert)
	// Inherited reports whether an alert for the subscription stands that another run raised.
	Inherited(store, name string) bool
}

// inherit takes over an alert of a run that is gone. That of a subscription is resolved once the subscription is healthy here; that
// of a store, which each instance has for itself, once nothing is wrong with the store.
func (l *loop) inherit(a status.Standing, now time.Time) {
	if a.Scope == "store" {
		s := &l.report.store
		if s.inherited == nil {
			s.inherited = map[string]registration.Owner{}
		}
		s.inherited[a.Owner.Name] = a.Owner
		l.lowerInherited(now)
		return
	}
	it := l.byName[a.Name]
	switch {
	case it != nil && it.proxy.Health == breaker.Healthy:
		it.alone = true
		l.report.entered(it, breaker.Healthy, now)
	case it == nil && a.Owner.Name == l.owner.Name:
		l.resolveFor(a.Owner, "proxy", a.Name, fmt.Sprintf("%s/%s is no longer configured here", a.Store, a.Name), now)
	}
}

// lowerInherited resolves the store's alerts of runs that are gone, once it is known that nothing is wrong with the store.
func (l *loop) lowerInherited(now time.Time) {
	a, w := &l.report.store, &l.watch
	if len(a.inherited) == 0 || a.level != "" || !l.connected() || w.since.IsZero() {
		return
	}
	// Until the emitter was heard, or was silent for so long that it would be an alert, nobody knows.
	unknown := l.holdsAny() && !w.known && now.Sub(w.since) < l.settings.Load().EmitterSilentAfter
	if unknown || slices.ContainsFunc(l.items, func(it *managed) bool { return it.proxy.Health == breaker.Unknown }) {
		return
	}
	for name, owner := range a.inherited {
		delete(a.inherited, name)
		l.resolveFor(owner, "store", "", fmt.Sprintf("nothing is wrong with store %s, as instance %s sees it", l.store, l.owner.Name), now)
	}
}

// resolveFor resolves an alert of a run that is gone.
func (l *loop) resolveFor(owner registration.Owner, scope, name, message string, now time.Time) {
	a := status.Alert{
		Envelope: status.NewEnvelope(status.AlertType, now), Level: status.Resolved, Scope: scope, Store: l.store, Name: name, Health: breaker.Healthy,
		Subscriptions: len(l.items), Message: message, Owner: owner,
	}
	l.logAlert(&a, "raised_by", owner.Name)
	l.sendOrKeep(a)
}
