package supervisor

import (
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/sink"
)

const (
	// staleAfter is how old a progress may be: it is told every ten seconds.
	staleAfter = 25 * time.Second
	// looks is how often within the silence that counts the store is looked at.
	looks = 4
	// hinderInterval is how often at the most the subscriptions are walked over while events don't come.
	hinderInterval = time.Second
)

// watch sees whether a store's events come: whether somebody sends them, and whether those that are behind
// move. The loop owns it.
type watch struct {
	*roster
	progress
	presence
	standstill
	passedOver passedOver
	gapAlerts  gapAlerts
	lookAt     time.Time // when to look next; zero: it was never looked
	known      bool      // lags are
	trouble    string    // why nobody here gets events of the store; empty: nothing is in the way
	hinders    bool      // some proxies are told that their events don't come
	walkedAt   time.Time
}

// progressed takes over what the store's emitter tells of how far it is. What it tells comes in parts;
// names that are not held here are no concern.
func (l *loop) progressed(m *event.Progress, now time.Time) {
	w := l.watch
	w.told = sign{now, m.Emitter}
	w.passedOver.note(m.PassedOver)
	before := w.progress
	if !w.progress.add(m, now) {
		return
	}
	for name, lag := range w.behind {
		it := l.byName[name]
		if it == nil || it.endpoint == nil || lag == 0 {
			continue
		}
		if before.behind[name] == 0 {
			l.reporter.mark(it, proxy.Soon)
		}
		w.stands(name, w.position(name), it.endpoint.Counts().Delivered, now)
	}
	for name := range before.behind {
		if it := l.byName[name]; it != nil && w.behind[name] == 0 {
			l.reporter.mark(it, proxy.Soon)
		}
	}
	w.keep(w.behind)
	l.alerter.alertGaps(now)
	l.look(now)
}

// observe looks after the store's events when that is due.
func (l *loop) observe(now time.Time, wake *time.Time) {
	w := l.watch
	if !now.Before(w.lookAt) {
		l.look(now)
	}
	sooner(wake, w.lookAt)
}

func (l *loop) look(now time.Time) {
	w, s := l.watch, l.settings.Load()
	w.renewed = l.inbox.renewed()
	after := s.EmitterSilentAfter
	if after == 0 {
		after = staleAfter
	}
	every := after / looks
	if s.StalledAfter > 0 {
		every = min(every, max(s.StalledAfter/looks, hinderInterval/looks))
	}
	// Where there was no connection, or this process was stopped, nothing could be heard.
	if late := now.Sub(w.lookAt) > after/2; late || !l.connected() {
		w.since = now
		clear(w.standstill)
	}
	w.lookAt = now.Add(every)
	fresh := w.told.within(max(after, staleAfter), now) && !w.at.IsZero()
	trouble, present := l.watch.storeTrouble(fresh, now)
	if known := fresh && present; known != w.known {
		w.known = known
		for _, it := range l.items {
			if it.endpoint != nil {
				l.reporter.mark(it, proxy.Soon)
			}
		}
	}
	l.hinder(trouble, now)
	l.alerter.alertPassedOver(now)
	l.alerter.lowerInherited(now)
}

// storeTrouble is why none of the proxies gets events, and whether the store has an emitter, as far as is
// known.
func (w *watch) storeTrouble(fresh bool, now time.Time) (trouble string, present bool) {
	after := w.settings.Load().EmitterSilentAfter
	switch {
	case !w.holdsAny():
		return "", true
	case !w.connected():
		return w.trouble, true // nothing can be heard of it now
	}
	if w.roster.hindered != nil {
		if reason := w.roster.hindered(); reason != "" {
			return reason, true
		}
	}
	if after > 0 {
		if absent := w.absent(w.store, now, after, w.spoken); absent != "" {
			return absent, false
		}
	}
	if fresh && w.progress.trouble != "" {
		return fmt.Sprintf("no event of store %s is sent: %s", w.store, w.progress.trouble), true
	}
	if fresh && w.hindered != "" {
		return fmt.Sprintf("events of store %s come late or not at all, for its emitter: %s", w.store, w.hindered), true
	}
	return "", true
}

// hinder tells the proxies whether their events come, as far as that changed.
func (l *loop) hinder(trouble string, now time.Time) {
	w := l.watch
	changed := trouble != w.trouble
	if w.trouble = trouble; changed {
		l.alerter.alertStore(trouble, now)
	}
	if !changed && !w.hinders && trouble == "" && len(w.waiting) == 0 && len(w.gaps) == 0 && len(w.standstill) == 0 {
		return
	}
	if !changed && now.Sub(w.walkedAt) < hinderInterval {
		return
	}
	w.walkedAt, w.hinders = now, false
	l.agenda.add(l.each(func(it *managed, now time.Time) {
		reason := w.hindrance(it, now)
		w.hinders = w.hinders || reason != ""
		switch {
		case (reason != "") != it.proxy.Hindered:
			l.stepper.step(it, proxy.Input{Kind: proxy.Hindering, Reason: reason}, now)
		case reason != "" && changed:
			l.reporter.mark(it, proxy.Soon)
		}
		if h := it.proxy.Health; changed && !it.alone && !it.covered && (h == breaker.Degraded || h == breaker.Failed) {
			l.alerter.entered(it, h, now) // the store's alert stood for it until now, perhaps
		}
	}))
}

// hindrance is why a proxy that is registered, and whose sink takes what comes, gets no events; empty: it
// gets them.
func (w *watch) hindrance(it *managed, now time.Time) string {
	if it.endpoint == nil {
		return ""
	}
	if w.trouble != "" {
		return w.trouble
	}
	if own := w.ownHindrance(it, now); own != "" || !w.known {
		return own
	}
	return w.gapOf(it)
}

// ownHindrance is why events don't come to the subscription alone. That it lost some, and goes on, has
// alerts of its own.
func (w *watch) ownHindrance(it *managed, now time.Time) string {
	if it.endpoint == nil || !w.known {
		return ""
	}
	if reason := w.waiting[it.proxy.Name]; reason != "" {
		return "its emitter sends it nothing: " + reason
	}
	m, behind := w.standstill[it.proxy.Name]
	if after := w.settings.Load().StalledAfter; !behind || after == 0 || now.Sub(m.since) < after {
		return ""
	}
	c := it.endpoint.Counts()
	if c.Delivered != m.accepted {
		return "" // the next progress will say so
	}
	still := fmt.Sprintf("behind, and no event accepted since %s", clock(m.since))
	switch {
	case c.Waits && c.InHand == 0:
		return fmt.Sprintf("%s: there is no memory for its next event (delivery.memory), other subscriptions' events fill it", still)
	case c.InHand > 0 && c.Kind == sink.Handler:
		return fmt.Sprintf("%s: its handler has not returned from event %d", still, c.InHand)
	case c.InHand > 0:
		return fmt.Sprintf("%s: sink %s has not got event %d accepted on %s; see whether its subscriber runs", still, c.Kind, c.InHand, c.Subject)
	default:
		return fmt.Sprintf("%s: emitter %s sends nothing after event %d; see its log, or restart it", still, w.by, m.position)
	}
}

// stalled reports whether a subscription has stood still for too long.
func (w *watch) stalled(it *managed, now time.Time) bool {
	m, behind := w.standstill[it.proxy.Name]
	after := w.settings.Load().StalledAfter
	return behind && it.endpoint != nil && after > 0 && now.Sub(m.since) >= after
}

// lag is how many events of the store the subscription has not delivered; nil: that is not known.
func (w *watch) lag(it *managed) *uint64 {
	behind := w.behind[it.proxy.Name]
	if it.endpoint == nil || !w.known || behind == 0 && w.progress.trouble != "" {
		return nil
	}
	return &behind
}
