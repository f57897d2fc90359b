package supervisor

import (
	"context"
	"log/slog"
	"time"
	"unsafe"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/rebalance"
	"github.com/exesdb/subproxy/pkg/registrar"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// dueInterval is the least time between two looks at what is due by time. Jitter spreads timers evenly, and thousands that fall
// due one by one would each be a batch of its own, at several times the cost.
const dueInterval = 50 * time.Millisecond

// managed is a proxy in its loop. It has 480 bytes at most, which is what the allocator gives; one more would cost 32 for
// each subscription.
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

	due      dueHeap
	dueAgain time.Time // not before it is looked again
	lost     losses    // in this turn
	applied  uint64    // changes of which proxies there are, so far
	depth    int       // how deep runUrgent is in itself
	ending   bool      // everything was removed; the loop ends once that is released
}

func newLoop(s *shared, store string) *loop {
	o := newRoster(s, store)
	l := &loop{roster: o, watch: &watch{roster: o}}
	l.dispatcher = newDispatcher(o)
	l.reporter = &reporter{roster: o, watch: l.watch, yield: l.breathe}
	l.alerter = &alerter{roster: o, watch: l.watch, reporter: l.reporter}
	l.actions = &actions{roster: o, reporter: l.reporter}
	l.holder = &holder{roster: o, alerter: l.alerter}
	if s.delivery != nil {
		l.holder.endpoints = s.delivery.Endpoints(o.inbox.fence, l.holder)
	}
	return l
}

// run is the loop. It ends after stop has released everything, or when ctx ends.
func (l *loop) run(ctx context.Context) {
	defer l.dispatcher.work.Wait()
	l.dispatcher.ctx = ctx
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		wake := l.turn(ctx, now)
		if l.ending && l.dispatcher.flight == 0 && len(l.dispatcher.releases) == 0 && l.transfers.Offered() == 0 && len(l.dispatcher.unreleased) == 0 {
			return
		}
		timer.Reset(time.Until(wake))
		select {
		case <-l.inbox.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// turn does all there is to do at now, and says when to look again at the latest.
func (l *loop) turn(ctx context.Context, now time.Time) (wake time.Time) {
	wake = now.Add(time.Minute)
	t := l.inbox.empty()
	for i := range t.results {
		l.finish(&t.results[i], now)
		l.breathe(i)
	}
	l.dispatcher.tellRegistered(t.results)
	if t.voided {
		for i, it := range l.items {
			l.step(it, proxy.Input{Kind: proxy.Voided}, now)
			l.breathe(i)
		}
	}
	for i := range t.news {
		l.seen(&t.news[i], now)
		l.breathe(i)
	}
	if l.dispatcher.mayStartRound(now, &wake) {
		l.event(l.inbox.takeEvents(), now)
	}
	for i := range t.tasks {
		t.tasks[i](l, now)
	}
	l.runUrgent()
	l.stepDue(now)
	l.dispatcher.releaseUnreleased(now, &wake)
	l.transfer(now, &wake)
	l.dispatcher.launch(ctx) // after transfer, which claims and releases
	l.tellSuperseded()
	l.observe(now, &wake)
	l.publish(now, &wake)
	if next := l.due.next(); !next.IsZero() {
		if next.Before(l.dueAgain) {
			next = l.dueAgain
		}
		sooner(&wake, next)
	}
	return wake
}

// publish tells what is due to be told. While there is no connection, alerts are kept and statuses are not: an alert is
// what happened, a status is what is.
func (l *loop) publish(now time.Time, wake *time.Time) {
	l.alerter.alert(now, wake)
	l.alerter.alertUnparked(now, wake)
	if !l.connected() {
		sooner(wake, now.Add(soonDelay))
		return
	}
	l.alerter.publishKept()
	l.reporter.publish(l.dispatcher.flight > 0, now, wake)
}

// stepDue steps what is due by time.
func (l *loop) stepDue(now time.Time) {
	next := l.due.next()
	if next.IsZero() || now.Before(next) || now.Before(l.dueAgain) {
		return
	}
	l.dueAgain = now.Add(dueInterval)
	for i, it := 0, l.due.pop(now); it != nil; i, it = i+1, l.due.pop(now) {
		l.step(it, proxy.Input{Kind: proxy.Due}, now)
		l.breathe(i)
	}
}

// step applies an input to a proxy and sees to its effects.
func (l *loop) step(it *managed, in proxy.Input, now time.Time) {
	in.Jitter = backoff.Jitter()
	stoodBy := it.proxy.Standby
	fx := it.proxy.Step(in, now, l.rules())
	if fx.Attempt {
		it.inEvent = isEvent(it.proxy.Cause)
		if it.inEvent {
			l.dispatcher.rounds++
		}
		l.dispatcher.admit(it)
	}
	from := it.endpoint
	l.holder.sync(it)
	if fx.Release {
		l.dispatcher.release(it, from, in.Kind == proxy.Unassigned, now)
	}
	if fx.Superseded != nil {
		l.superseded(it, *fx.Superseded, now)
	}
	if fx.Entered != "" {
		if l.alerts != nil && fx.Entered == breaker.Healthy && l.alerts.Inherited(l.store, it.proxy.Name) {
			it.alone = true // another run raised it, and is gone
		}
		l.alerter.entered(it, fx.Entered, now)
	}
	l.reporter.mark(it, fx.Publish)
	switch p := &it.proxy; {
	case it.removed:
	case p.Stopped:
		l.transfers.Note(rebalance.Input{Kind: rebalance.Removed, Key: it.key}, now)
	case p.Standby:
		l.noteStandby(it, now)
	case stoodBy:
		l.transfers.Note(rebalance.Input{Kind: rebalance.Held, Key: it.key}, now)
	}
	if !it.proxy.Attempting {
		l.due.schedule(it)
	}
}

func isEvent(c registration.Cause) bool {
	return c == registration.LeaderChanged || c == registration.EmitterRestarted || c == registration.Reconnected
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
		Kind: rebalance.Registered, Key: it.key, Began: it.proxy.CauseAt, Took: r.At.Sub(it.proxy.CauseAt), Failed: r.Err != nil || r.Superseded,
	}, now)
	l.inbox.fence.Learn(r.Term, now)
	if it.removed {
		if it.proxy.Step(proxy.Input{Kind: proxy.Finished, Outcome: outcomeOf(r.Result)}, now, l.rules()).Release {
			l.dispatcher.release(it, nil, false, now)
		}
		return
	}
	l.step(it, proxy.Input{Kind: proxy.Finished, Outcome: outcomeOf(r.Result)}, now)
	l.actions.settle(it, now)
}

// finishRelease ends a release. Of what is no longer configured here, one that failed is tried again: its record names an
// instance that lives, so that nobody else would claim the subscription.
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

// outcomeOf is an attempt's result as its proxy's rules need it.
func outcomeOf(r *registrar.Result) proxy.Outcome {
	return proxy.Outcome{
		Revision: r.Revision, Incarnation: r.Incarnation, Known: r.Known, Written: r.Written, Verified: r.Verified, At: r.At,
		Err: r.Err, FoundIncarnation: r.FoundIncarnation, Missing: r.Missing, Superseded: r.Superseded, By: r.By,
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
		n.Incarnation, n.Owner = it.proxy.Incarnation, l.owner
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
		seen.Holder, seen.Taken = n.Holder(), p.Standby && (p.Holder == nil || p.Holder.ID != n.Owner.ID)
	}
	l.transfers.Note(seen, now)
	l.step(it, proxy.Input{Kind: proxy.Seen, News: n}, now)
}

// trimmed voids what was last seen below the revision first. An attempt under way finds out by itself.
func (l *loop) trimmed(first uint64, now time.Time) {
	for _, it := range l.items {
		if p := &it.proxy; p.Revision < first && (p.Registered || p.Standby) && !p.Attempting {
			l.step(it, proxy.Input{Kind: proxy.Voided}, now)
		}
	}
}

func (l *loop) event(e merged, now time.Time) {
	named := 0
	for i, it := range l.items {
		l.breathe(i)
		if !names(e.topics, it.proxy.Subscription) {
			continue
		}
		named++
		l.step(it, proxy.Input{Kind: proxy.Event, Cause: e.cause, SeenAt: e.seenAt}, now)
	}
	if named == 0 {
		l.metrics.Ignored.WithLabelValues("topic").Inc()
		return
	}
	l.log.Info("re-registering", "cause", e.cause, "subscriptions", named)
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

// losses are the subscriptions that other instances took over.
type losses struct {
	n     int
	first string             // its name
	by    registration.Owner // who took that; it may be gone again by now
}

// superseded tells the supervisor where it is another run of this instance's name that took over, which says so itself. Where
// instances share, that is for their sessions to tell: the registration may be of the earlier run, which was stopped, goes on and
// has not heard yet.
func (l *loop) superseded(it *managed, by registration.Owner, now time.Time) {
	l.metrics.Superseded.Inc()
	switch {
	case by.Name != l.owner.Name || by.ID == l.owner.ID:
	case l.members.Load() == nil:
		l.retire(by)
		return
	default:
		l.transfers.Note(rebalance.Input{Kind: rebalance.RivalSeen}, now)
	}
	if l.lost.n++; l.lost.n == 1 {
		l.lost.first, l.lost.by = it.proxy.Name, by
	}
}

// tellSuperseded logs one line for all that were superseded in a turn.
func (l *loop) tellSuperseded() {
	if l.lost.n == 0 {
		return
	}
	level := slog.LevelWarn
	if l.transfers.Shares() {
		level = slog.LevelInfo // they share
	}
	l.log.Log(context.Background(), level, "another instance holds subscriptions now; standing by", "subscriptions", l.lost.n, "first", l.lost.first, "by", l.lost.by.Name, "id", l.lost.by.ID)
	l.lost = losses{}
}
