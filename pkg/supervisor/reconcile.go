package supervisor

import (
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/rebalance"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// apply makes the store's subscriptions those given.
func (l *loop) apply(wanted []subscription.Subscription, started bool, now time.Time) {
	keep := make(map[string]subscription.Subscription, len(wanted))
	for _, s := range wanted {
		keep[s.Name] = s
	}
	added, restarted, released := 0, 0, 0
	for _, it := range slices.Clone(l.items) {
		s, ok := keep[it.proxy.Name]
		switch {
		case !ok || s.Key() != it.key:
			l.remove(it, now)
			released++
		case s != it.proxy.Subscription:
			l.step(it, proxy.Input{Kind: proxy.Reconfigured, Subscription: &s}, now) // the rest is the key, and read by the endpoint without a lock
			l.restart(it, now)
			restarted++
		}
	}
	for i, s := range wanted {
		if l.byName[s.Name] == nil {
			l.add(s, started, now)
			added++
		}
		l.breathe(i)
	}
	if added+restarted+released > 0 {
		l.log.Info("subscriptions", "added", added, "restarted", restarted, "released", released, "now", len(l.items))
	}
}

func (l *loop) add(s subscription.Subscription, started bool, now time.Time) {
	it := &managed{proxy: proxy.NewProxy(s), key: s.Key(), index: int32(len(l.items))}
	l.items = append(l.items, it)
	l.byName[s.Name] = it
	if l.retired.Load() {
		l.step(it, proxy.Input{Kind: proxy.Retired}, now)
	} else if started {
		l.start(it, now)
	}
}

func (l *loop) remove(it *managed, now time.Time) {
	underWay := it.proxy.Attempting && !it.ready
	if it.ready && it.inEvent {
		it.inEvent = false
		l.rounds--
	}
	l.closeEndpoint(it)
	l.transfers.Note(rebalance.Input{Kind: rebalance.Removed, Key: it.key}, now)
	it.removed = true
	l.step(it, proxy.Input{Kind: proxy.Stop}, now)
	l.lower(it, now)
	l.due.remove(it)
	delete(l.byName, it.proxy.Name)
	delete(l.report.changed, it)
	last := l.items[len(l.items)-1]
	l.items[it.index], last.index = last, it.index
	l.items = l.items[:len(l.items)-1]
	if len(l.items) == 0 {
		l.hinder("", now)
	}
	if underWay && len(l.releases) > 0 && l.releases[len(l.releases)-1].Key == it.key {
		// The attempt under way may write once more; it is released when that has ended (finish).
		l.releases = l.releases[:len(l.releases)-1]
	}
	l.settleActions(it, now)
}

// restart ends a proxy's run, and begins the next one where that stopped, once what its sink has in hand is done with: the emitter
// passes over what the run says once there is another.
func (l *loop) restart(it *managed, now time.Time) {
	e := it.endpoint
	var drained <-chan struct{}
	if e != nil {
		drained = e.Finish()
	}
	if it.restarting {
		return
	}
	if isClosed(drained) {
		l.beginAnew(it, now)
		return
	}
	it.restarting = true
	l.work.Go(func() {
		<-drained // closed within drainWithin
		l.inbox.post(func(l *loop, now time.Time) {
			if it.restarting = false; it.endpoint == e { // else it was superseded, released or removed meanwhile
				l.beginAnew(it, now)
			}
			l.settleActions(it, now)
		})
	})
}

// beginAnew begins the run after one that has nothing in hand any more.
func (l *loop) beginAnew(it *managed, now time.Time) {
	from := it.endpoint
	l.closeEndpoint(it)
	it.number = l.numbers.Add(1)
	in := proxy.Input{Kind: proxy.Restart, SeenAt: now}
	if from != nil {
		in.HandedOver = &proxy.HandedOver{At: from.Position(), Revision: it.proxy.Revision}
		l.openEndpoint(it, in.HandedOver)
	}
	l.step(it, in, now)
}

// reschedule brings the timers of healthy proxies forward to where the interval in force has them at the latest.
func (l *loop) reschedule(now time.Time) {
	for i, it := range l.items {
		l.step(it, proxy.Input{Kind: proxy.Rescheduled}, now)
		l.breathe(i)
	}
}

func (l *loop) startAll(now time.Time) {
	for i, it := range l.items {
		if !it.proxy.Started {
			l.start(it, now)
		}
		l.breathe(i)
	}
}

// stop asks the loop to end when everything it holds is released; apply has removed the items before.
func (l *loop) stop(time.Time) {
	l.ending = true
}

// held are the proxies of that name, or all, that this instance holds or tries to.
func (l *loop) held(name string) []*managed {
	var items []*managed
	for _, it := range l.named(name) {
		if !it.proxy.Standby {
			items = append(items, it)
		}
	}
	return items
}

func (l *loop) named(name string) []*managed {
	if name == "" {
		return l.items
	}
	if it := l.byName[name]; it != nil {
		return []*managed{it}
	}
	return nil
}

func (l *loop) statuses(r control.Request, now time.Time) []status.Status {
	items := l.named(r.Name)
	statuses := make([]status.Status, 0, len(items))
	for i, it := range items {
		if !r.Held || !l.idle(it) {
			statuses = append(statuses, l.status(it, now))
		}
		l.breathe(i)
	}
	return statuses
}

// act applies an operator's input, and replies when the attempts that it caused have ended; of a proxy that has not
// started yet, when its first one has.
func (l *loop) act(name string, in proxy.Input, reply chan<- []status.Status, now time.Time) {
	in.SeenAt = now
	a := &action{waiting: map[*managed]struct{}{}, items: l.held(name), reply: reply}
	for _, it := range a.items {
		if name != "" {
			l.prioritize(it)
		}
		if in.Kind == proxy.Restart {
			l.restart(it, now)
		} else {
			l.step(it, in, now)
		}
		if p := &it.proxy; p.Attempting || it.restarting || !p.Started && !p.Stopped {
			a.waiting[it] = struct{}{}
		} else {
			it.asked = false
		}
	}
	if len(a.waiting) == 0 {
		l.answer(a, now)
		return
	}
	l.actions = append(l.actions, a)
}

// settleActions takes an item whose attempts have ended off the waiting lists.
func (l *loop) settleActions(it *managed, now time.Time) {
	if len(l.actions) == 0 || (it.proxy.Attempting || it.restarting) && !it.removed {
		return
	}
	open := l.actions[:0]
	for _, a := range l.actions {
		if delete(a.waiting, it); len(a.waiting) == 0 {
			l.answer(a, now)
			continue
		}
		open = append(open, a)
	}
	l.actions, it.asked = open, false
}

func (l *loop) answer(a *action, now time.Time) {
	statuses := make([]status.Status, 0, len(a.items))
	for _, it := range a.items {
		statuses = append(statuses, l.status(it, now))
	}
	a.reply <- statuses
}
