package supervisor

import (
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/rebalance"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// apply makes the store's subscriptions those given.
func (l *loop) apply(wanted []subscription.Subscription, started bool) {
	keep := make(map[string]subscription.Subscription, len(wanted))
	for _, s := range wanted {
		keep[s.Name] = s
	}
	added, restarted, released := 0, 0, 0
	items := slices.Clone(l.items)
	l.agenda.add(l.agenda.steps(len(items), func(i int, now time.Time) {
		it := items[i]
		s, ok := keep[it.proxy.Name]
		switch {
		case !ok || s.Key() != it.key:
			l.remove(it, now)
			released++
		case s != it.proxy.Subscription:
			l.stepper.step(it, proxy.Input{Kind: proxy.Reconfigured, Subscription: &s}, now) // the rest is the key, and read by the endpoint without a lock
			l.restart(it, now)
			restarted++
		}
	}), l.agenda.steps(len(wanted), func(i int, now time.Time) {
		if s := wanted[i]; l.byName[s.Name] == nil {
			l.add(s, started, now)
			added++
		}
	}), once(func(time.Time) {
		l.inbox.applied()
		if added+restarted+released > 0 {
			l.log.Info("subscriptions", "added", added, "restarted", restarted, "released", released, "now", len(l.items))
		}
	}))
}

func (l *loop) add(s subscription.Subscription, started bool, now time.Time) {
	it := &managed{proxy: proxy.NewProxy(s), key: s.Key(), index: int32(len(l.items))}
	l.items = append(l.items, it)
	l.byName[s.Name] = it
	if l.retired.Load() {
		l.stepper.step(it, proxy.Input{Kind: proxy.Retired}, now)
	} else if started {
		l.start(it, now)
	}
}

func (l *loop) remove(it *managed, now time.Time) {
	underWay := it.proxy.Attempt.UnderWay && !it.ready
	if it.ready && it.inEvent {
		it.inEvent = false
		l.dispatcher.rounds--
	}
	l.holder.close(it)
	l.transfers.Note(rebalance.Input{Kind: rebalance.Removed, Key: it.key}, now)
	it.removed = true
	l.stepper.step(it, proxy.Input{Kind: proxy.Stop}, now)
	l.alerter.lower(it, now)
	l.stepper.due.remove(it)
	delete(l.byName, it.proxy.Name)
	delete(l.alerter.changed, it)
	last := l.items[len(l.items)-1]
	l.items[it.index], last.index = last, it.index
	l.items = l.items[:len(l.items)-1]
	if len(l.items) == 0 {
		l.hinder("", now)
	}
	if underWay && len(l.dispatcher.releases) > 0 && l.dispatcher.releases[len(l.dispatcher.releases)-1].Key == it.key {
		// The attempt under way may write once more; it is released when that has ended (finish).
		l.dispatcher.releases = l.dispatcher.releases[:len(l.dispatcher.releases)-1]
	}
	l.actions.settle(it)
}

// restart ends a proxy's run, and begins the next one where that stopped, once what its sink has in hand is
// done with: the emitter passes over what the run says once there is another.
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
	l.dispatcher.work.Go(func() {
		<-drained // closed within drainWithin
		l.inbox.post(func(l *loop, now time.Time) {
			if it.restarting = false; it.endpoint == e { // else it was superseded, released or removed meanwhile
				l.beginAnew(it, now)
			}
			l.actions.settle(it)
		})
	})
}

// beginAnew begins the run after one that has nothing in hand any more.
func (l *loop) beginAnew(it *managed, now time.Time) {
	from := it.endpoint
	l.holder.close(it)
	it.number = l.numbers.Add(1)
	in := proxy.Input{Kind: proxy.Restart, SeenAt: now}
	if from != nil {
		in.HandedOver = &proxy.HandedOver{At: from.Position(), Revision: it.proxy.Record.Revision}
		l.holder.open(it, in.HandedOver)
	}
	l.stepper.step(it, in, now)
}

// reschedule brings the timers of healthy proxies forward to where the interval in force has them at the
// latest.
func (l *loop) reschedule(time.Time) {
	l.agenda.add(l.each(func(it *managed, now time.Time) { l.stepper.step(it, proxy.Input{Kind: proxy.Rescheduled}, now) }))
}

func (l *loop) startAll(time.Time) {
	l.agenda.add(l.each(func(it *managed, now time.Time) {
		if !it.proxy.Started {
			l.start(it, now)
		}
	}))
}

// stop asks the loop to end when everything it holds is released; apply has removed the items before.
func (l *loop) stop(time.Time) {
	l.ending = true
}
