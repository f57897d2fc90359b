package supervisor

import (
	"context"
	"runtime"
	"time"
	"unsafe"

	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/rebalance"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// managed is a proxy in its loop. It has 480 bytes at most, which is what the allocator gives; one more
// would cost 32 for each subscription.
type managed struct {
	proxy    proxy.Proxy
	key      string
	number   uint64             // of its deliver subject
	endpoint *delivery.Endpoint // where its events come in; nil while it stands by
	busy     <-chan struct{}    // closed when the endpoint before has nothing in hand; nil: there was none
	// dueAt and slot are the due heap's; slot is the index there plus one, 0 for not in it.
	dueAt time.Time
	slot  int32
	index int32 // in loop.items

	dirty   proxy.Urgency // a status is to be published
	alone   bool          // an alert of its own stands
	covered bool          // the store's alert stands for it
	ready   bool          // in loop.ready
	inEvent bool          // the attempt under way is part of an event round
	removed bool          // no longer configured; only its attempt under way is waited for
	asked   bool          // an operator waits for its attempt, which goes first

	restarting bool // it takes no events, and begins anew once its sink has nothing in hand
	unparked   bool // counted in loop.unparked
}

var _ [480 - unsafe.Sizeof(managed{})]byte // else it does not compile

// loop owns the proxies of one store. All its fields but the inbox belong to the goroutine that runs it.
type loop struct {
	*roster
	holder     *holder
	dispatcher *dispatcher
	watch      *watch
	reporter   *reporter
	alerter    *alerter
	actions    *actions
	stepper    *stepper
	mover      *mover

	wake   time.Time // when the next round is due at the latest
	agenda *agenda   // of the round under way
	urgent []work    // begun for operators, and not ended
	ending bool      // everything was removed; the loop ends once that is released
}

func newLoop(s *shared, store string) *loop {
	o := newRoster(s, store)
	l := &loop{roster: o, watch: &watch{roster: o}, agenda: &agenda{}}
	l.dispatcher = newDispatcher(o)
	l.reporter = &reporter{roster: o, watch: l.watch, agenda: l.agenda}
	l.alerter = &alerter{roster: o, watch: l.watch, reporter: l.reporter}
	l.actions = &actions{roster: o, reporter: l.reporter, begin: l.begin}
	l.holder = &holder{roster: o, alerter: l.alerter}
	l.stepper = &stepper{roster: o, holder: l.holder, dispatcher: l.dispatcher, reporter: l.reporter, alerter: l.alerter}
	l.mover = &mover{roster: o, stepper: l.stepper, dispatcher: l.dispatcher, agenda: l.agenda}
	if s.delivery != nil {
		l.holder.endpoints = s.delivery.Endpoints(o.inbox.fence, l.holder)
	}
	return l
}

// run is the loop. It ends after everything was removed and released, or when ctx ends.
func (l *loop) run(ctx context.Context) {
	defer l.dispatcher.work.Wait()
	l.dispatcher.ctx = ctx
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		wake := l.turn(time.Now())
		if wake.IsZero() {
			// Who waits for a processor has it before the scheduler would take it from the loop, which is
			// after 10 ms: an operator's request needs one several times.
			runtime.Gosched()
			continue
		}
		if l.ending && l.dispatcher.idle() && l.transfers.Offered() == 0 {
			return
		}
		timer.Reset(time.Until(wake))
		select {
		case <-l.inbox.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// turn does a bounded part of what there is to do, and says when the next turn is due at the latest; zero:
// at once, since more is to do. Nothing is done in the middle of anything else: what is too much for a turn
// is left to the next ones as pending work.
//
// A turn does first what operators wait for. Then it goes on with the round under way, or begins one. A
// round is, in this order:
//
//  1. the results of attempts and releases
//  2. a bucket that is new
//  3. entries of the bucket
//  4. a cluster event, where one may be acted on
//  5. tasks, in the order in which they were posted
//  6. proxies that are due by time
//  7. releases that failed
//  8. transfers, which claim and release
//  9. attempts and releases are handed to the registrar, after what causes them
//  10. what was superseded is logged
//  11. whether the store's events come
//  12. alerts, statuses, heartbeats and summaries
func (l *loop) turn(now time.Time) (wake time.Time) {
	l.runUrgent(now)
	if l.agenda.done() {
		l.beginRound(now)
	}
	l.agenda.run(now, stepsPerTurn)
	if !l.agenda.done() || len(l.urgent) > 0 {
		l.dispatcher.launchFull() // NATS works on the first batches of a round while the loop is still admitting the others
		return time.Time{}
	}
	l.stepper.wakeAtDue(&l.wake)
	return l.wake
}

// beginRound puts on the agenda what a round does.
func (l *loop) beginRound(now time.Time) {
	l.wake = now.Add(time.Minute)
	c, a := l.inbox.empty(), l.agenda
	a.pending = append(a.pending[:0],
		a.steps(len(c.results), func(i int, now time.Time) { l.finish(&c.results[i], now) }),
		once(func(time.Time) {
			l.dispatcher.tellRegistered(c.results)
			if c.voided {
				a.add(l.each(func(it *managed, now time.Time) { l.stepper.step(it, proxy.Input{Kind: proxy.Voided}, now) }))
			}
		}),
		a.steps(len(c.news), func(i int, now time.Time) { l.seen(&c.news[i], now) }),
		once(func(now time.Time) {
			if l.dispatcher.mayStartRound(now, &l.wake) {
				l.event(l.inbox.takeEvents())
			}
		}),
		a.steps(len(c.tasks), func(i int, now time.Time) { c.tasks[i](l, now) }),
		l.stepper.stepDue(),
		once(func(now time.Time) { l.dispatcher.releaseUnreleased(now, &l.wake) }),
		func(now time.Time, _ *int) (more bool) { return l.mover.transfer(now, &l.wake) },
		once(func(time.Time) { l.dispatcher.launch() }),
		once(func(time.Time) { l.stepper.tellSuperseded() }),
		once(func(now time.Time) { l.observe(now, &l.wake) }),
		once(l.publish),
	)
}

// each is work that steps every proxy of the store.
func (l *loop) each(step func(*managed, time.Time)) work {
	items := l.items
	return l.agenda.steps(len(items), func(i int, now time.Time) { step(items[i], now) })
}

// runUrgent does what operators wait for, a part of each that is much, and hands over the attempts that it
// causes.
func (l *loop) runUrgent(now time.Time) {
	for _, t := range l.inbox.takeUrgent() {
		t(l, now)
	}
	pending := l.urgent
	l.urgent = nil
	for _, w := range pending {
		left := stepsPerTurn
		if w(now, &left) {
			l.urgent = append(l.urgent, w)
		}
	}
	l.dispatcher.launchPriority()
}

// publish tells what is due to be told. While there is no connection, alerts are kept and statuses are not:
// an alert is what happened, a status is what is.
func (l *loop) publish(now time.Time) {
	l.alerter.alert(now, &l.wake)
	l.alerter.alertUnparked(now, &l.wake)
	if !l.connected() {
		sooner(&l.wake, now.Add(soonDelay))
		return
	}
	l.alerter.publishKept()
	l.agenda.add(l.reporter.publish(l.dispatcher.flight > 0, &l.wake))
}

func (l *loop) finish(r *result, now time.Time) {
	l.dispatcher.flight--
	if r.release != nil {
		l.finishRelease(r, now)
		return
	}
	it := r.item
	if it.inEvent {
		it.inEvent = false
		l.dispatcher.rounds--
	}
	l.dispatcher.count(it, r.Result)
	l.transfers.Note(rebalance.Input{
		Kind: rebalance.Registered, Key: it.key, Began: it.proxy.Attempt.CauseAt, Took: r.At.Sub(it.proxy.Attempt.CauseAt), Failed: r.Err != nil || r.Superseded,
	}, now)
	l.inbox.fence.Learn(r.Term, now)
	if it.removed {
		if it.proxy.Step(proxy.Input{Kind: proxy.Finished, Outcome: r.Outcome}, now, l.rules()).Release {
			l.dispatcher.release(it, nil, false, now)
		}
		return
	}
	l.stepper.step(it, proxy.Input{Kind: proxy.Finished, Outcome: r.Outcome}, now)
	l.actions.settle(it)
}

// finishRelease ends a release. Of what is no longer configured here, one that failed is tried again: its
// record names an instance that lives, so that nobody else would claim the subscription.
func (l *loop) finishRelease(r *result, now time.Time) {
	if !r.release.since.IsZero() {
		l.metrics.MoveSeconds.WithLabelValues("release").Observe(now.Sub(r.release.since).Seconds())
	}
	l.transfers.Note(rebalance.Input{Kind: rebalance.Reclaimed, Key: r.release.Key}, now)
	if it := l.withKey(r.release.Key); it != nil {
		l.noteStandby(it, now)
	} else if r.err != nil {
		l.dispatcher.unreleased, l.dispatcher.releaseAt = append(l.dispatcher.unreleased, r.release.Write), now.Add(releaseAgain)
	}
}

// seen takes one entry of the bucket. Only records of others are decoded.
func (l *loop) seen(e *kv.Entry, now time.Time) {
	it := l.withKey(e.Key)
	if it == nil {
		l.respelled(e, now)
		return
	}
	n := proxy.News{Revision: e.Revision, Removed: e.Operation != kv.Put, Incarnation: e.Incarnation}
	switch {
	case n.Removed:
		l.inbox.fence.Learn(e.Term, now)
	case e.Contains(l.matcher):
		n.Mine, n.Readable = true, true
		n.Incarnation, n.Owner = it.proxy.Record.Incarnation, l.owner
	default:
		record, err := registration.Decode(e.Key, e.Data)
		if err != nil {
			l.log.Warn("a registration was overwritten with something unreadable", "subscription", it.proxy.Name, "revision", e.Revision, "error", err)
			break
		}
		n.Readable, n.Incarnation, n.Owner = true, record.Incarnation, record.Owner
		l.inbox.fence.Learn(record.Term, now)
	}
	seen := rebalance.Input{Kind: rebalance.Seen, Key: it.key, Revision: n.Revision, Mine: n.Mine}
	if n.Readable && !n.Mine {
		p := &it.proxy
		seen.Holder, seen.Taken = n.Holder(), p.Standby && (p.Record.Holder == nil || p.Record.Holder.ID != n.Owner.ID)
	}
	l.transfers.Note(seen, now)
	l.stepper.step(it, proxy.Input{Kind: proxy.Seen, News: n}, now)
}

// trimmed voids what was last seen below the revision first. An attempt under way finds out by itself.
func (l *loop) trimmed(first uint64) {
	l.agenda.add(l.each(func(it *managed, now time.Time) {
		if p := &it.proxy; p.Record.Revision < first && (p.Registered || p.Standby) && !p.Attempt.UnderWay {
			l.stepper.step(it, proxy.Input{Kind: proxy.Voided}, now)
		}
	}))
}

// event acts on a cluster event.
func (l *loop) event(e merged) {
	named := 0
	l.agenda.add(l.each(func(it *managed, now time.Time) {
		if names(e.topics, it.proxy.Subscription) {
			named++
			l.stepper.step(it, proxy.Input{Kind: proxy.Event, Cause: e.cause, SeenAt: e.seenAt}, now)
		}
	}), once(func(time.Time) {
		if named == 0 {
			l.metrics.Ignored.WithLabelValues("topic").Inc()
			return
		}
		l.log.Info("re-registering", "cause", e.cause, "subscriptions", named)
	}))
}

func names(topics []string, s subscription.Subscription) bool {
	if topics == nil {
		return true
	}
	for _, topic := range topics {
		if s.NamedBy(topic) {
			return true
		}
	}
	return false
}
