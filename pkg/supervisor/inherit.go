package supervisor

import (
	"fmt"
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

// Alerts publishes alerts, and remembers which stand beyond the life of this run. Its methods are called by
// the stores' loops and must not block.
type Alerts interface {
	Publish(status.Alert)
	// Inherited reports whether an alert for the subscription stands that another run raised.
	Inherited(store, name string) bool
}

// inherit takes over an alert of a run that is gone. That of a subscription is resolved once the
// subscription is healthy here; that of a store, which each instance has for itself, once nothing is wrong
// with the store.
func (al *alerter) inherit(a status.Standing, now time.Time) {
	if a.Scope == "store" {
		s := &al.standing
		if s.inherited == nil {
			s.inherited = map[string]registration.Owner{}
		}
		s.inherited[a.Owner.Name] = a.Owner
		al.lowerInherited(now)
		return
	}
	it := al.byName[a.Name]
	switch {
	case it != nil && it.proxy.Health == breaker.Healthy:
		it.alone = true
		al.entered(it, breaker.Healthy, now)
	case it == nil && a.Owner.Name == al.owner.Name:
		al.resolveFor(a.Owner, "proxy", a.Name, fmt.Sprintf("%s/%s is no longer configured here", a.Store, a.Name), now)
	}
}

// lowerInherited resolves the store's alerts of runs that are gone, once it is known that nothing is wrong
// with the store.
func (al *alerter) lowerInherited(now time.Time) {
	a, w := &al.standing, al.watch
	if len(a.inherited) == 0 || a.level != "" || !al.connected() || w.since.IsZero() {
		return
	}
	// Until the emitter was heard, or was silent for so long that it would be an alert, nobody knows.
	unknown := al.holdsAny() && !w.known && now.Sub(w.since) < al.settings.Load().EmitterSilentAfter
	if unknown || slices.ContainsFunc(al.items, func(it *managed) bool { return it.proxy.Health == breaker.Unknown }) {
		return
	}
	for name, owner := range a.inherited {
		delete(a.inherited, name)
		al.resolveFor(owner, "store", "", fmt.Sprintf("nothing is wrong with store %s, as instance %s sees it", al.store, al.owner.Name), now)
	}
}

// resolveFor resolves an alert of a run that is gone.
func (al *alerter) resolveFor(owner registration.Owner, scope, name, message string, now time.Time) {
	a := status.Alert{
		Envelope: status.NewEnvelope(status.AlertType, now), Level: status.Resolved, Scope: scope, Store: al.store, Name: name, Health: breaker.Healthy,
		Subscriptions: len(al.items), Message: message, Owner: owner,
	}
	al.logAlert(&a, "raised_by", owner.Name)
	al.sendOrKeep(a)
}
