package supervisor

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/time/rate"

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

// A cluster event is acted on at once. More of them than eventBurst in a short time are merged, one round every
// eventInterval: leaders change in seconds, so a faster sequence is a flood, and costs a handful of rounds.
const (
	eventBurst    = 4
	eventInterval = 200 * time.Millisecond
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

// release is a record to be deleted, or offered to another instance, once what the proxy's sink has in hand is done with:
// the next holder then begins after it.
type release struct {
	kv.Write
	since   time.Time // zero: package rebalance tells how long it took
	drained <-chan struct{}
	from    *delivery.Endpoint // where its events came in; nil: nowhere
	offered bool               // to another instance, and not deleted
}

// loop owns the proxies of one store. All its fields but the inbox belong to the goroutine that runs it.
type loop struct {
	*shared
	ctx       context.Context // of run
	store     string
	inbox     *inbox
	endpoints *delivery.Endpoints // nil: the proxies receive no events
	log       *slog.Logger

	items    []*managed
	byName   map[string]*managed
	due      dueHeap
	dueAgain time.Time // not before it is looked again

	ready    []*managed // admitted attempts, not yet handed to the registrar
	priority []*managed // the same, that operators wait for
	unheld   []*managed // the same, of subscriptions that nobody holds
	releases []release
	flight   int // attempts and releases handed over and not ended

	unreleased []kv.Write // of what is no longer configured: they failed
	releaseAt  time.Time  // when they are tried again

	transfers *rebalance.Rebalancer // what moves to this instance, and from it

	batches  registrar.Batches
	launched atomic.Int32 // batches handed over and not ended
	rounds   int          // attempts not ended that belong to the event round under way
	limit    *rate.Limiter
	actions  []*action
	lost     losses // in this turn
	watch    watch  // whether the store's events come
	applied  uint64 // changes of which proxies there are, so far
	depth    int    // how deep runUrgent is in itself
	ending   bool   // everything was removed; the loop ends once that is released
	work     sync.WaitGroup

	// The settings in force, and what they were made from (rules).
	stretched     proxy.Settings
	stretchedFrom *proxy.Settings
	stretchedFor  int64

	report report

	unparked unparked
}

func newLoop(s *shared, store string) *loop {
	l := &loop{
		shared: s, store: store, inbox: newInbox(delivery.NewFence(store, s.logger)), log: s.logger.With("store", store),
		byName: map[string]*managed{}, transfers: rebalance.New(s.owner),
		limit: rate.NewLimiter(rate.Every(eventInterval), eventBurst),
	}
	if s.delivery != nil {
		l.endpoints = s.delivery.Endpoints(l.inbox.fence, l)
	}
	l.transfers.Note(rebalance.Input{Kind: rebalance.MembersChanged, Members: s.members.Load().Of(store)}, time.Now())
	return l
}

// run is the loop. It ends after stop has released everything, or when ctx ends.
func (l *loop) run(ctx context.Context) {
	defer l.work.Wait()
	l.ctx = ctx
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		wake := l.turn(ctx, now)
		if l.ending && l.flight == 0 && len(l.releases) == 0 && l.transfers.Offered() == 0 && len(l.unreleased) == 0 {
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
	l.tellRegistered(t.results)
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
	if l.mayStartRound(now, &wake) {
		l.event(l.inbox.takeEvents(), now)
	}
	for i := range t.tasks {
		t.tasks[i](l, now)
	}
	l.runUrgent()
	l.stepDue(now)
	l.releaseUnreleased(now, &wake)
	l.transfer(now, &wake)
	l.launch(ctx) // after transfer, which claims and releases
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

// mayStartRound reports whether pending cluster events may be acted on now: not while a round is under way, and not
// faster than the limit.
func (l *loop) mayStartRound(now time.Time, wake *time.Time) bool {
	if !l.inbox.eventPending() {
		return false
	}
	if l.flight > 0 {
		sooner(wake, l.batches.GiveUp(now, l.settings.Load().VerificationTimeout/2))
	}
	if l.rounds > 0 {
		return false
	}
	if l.limit.AllowN(now, 1) {
		return true
	}
	sooner(wake, now.Add(eventInterval/4))
	return false
}

// step applies an input to a proxy and sees to its effects.
func (l *loop) step(it *managed, in proxy.Input, now time.Time) {
	in.Jitter = backoff.Jitter()
	stoodBy := it.proxy.Standby
	fx := it.proxy.Step(in, now, l.rules())
	if fx.Attempt {
		it.inEvent = isEvent(it.proxy.Cause)
		if it.inEvent {
			l.rounds++
		}
		l.admit(it)
	}
	from := it.endpoint
	l.syncEndpoint(it)
	if fx.Release {
		l.release(it, from, in.Kind == proxy.Unassigned, now)
	}
	if fx.Superseded != nil {
		l.superseded(it, *fx.Superseded, now)
	}
	if fx.Entered != "" {
		if l.alerts != nil && fx.Entered == breaker.Healthy && l.alerts.Inherited(l.store, it.proxy.Name) {
			it.alone = true // another run raised it, and is gone
		}
		l.report.entered(it, fx.Entered, now)
	}
	l.mark(it, fx.Publish)
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
	l.flight--
	if r.release != nil {
		l.finishRelease(r, now)
		return
	}
	it := r.item
	if it.inEvent {
		it.inEvent = false
		l.rounds--
	}
	l.count(it, r.Result)
	l.transfers.Note(rebalance.Input{
		Kind: rebalance.Registered, Key: it.key, Began: it.proxy.CauseAt, Took: r.At.Sub(it.proxy.CauseAt), Failed: r.Err != nil || r.Superseded,
	}, now)
	l.inbox.fence.Learn(r.Term, now)
	if it.removed {
		if it.proxy.Step(proxy.Input{Kind: proxy.Finished, Outcome: outcomeOf(r.Result)}, now, l.rules()).Release {
			l.release(it, nil, false, now)
		}
		return
	}
	l.step(it, proxy.Input{Kind: proxy.Finished, Outcome: outcomeOf(r.Result)}, now)
	l.settleActions(it, now)
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
		l.unreleased, l.releaseAt = append(l.unreleased, r.release.Write), now.Add(releaseAgain)
	}
}

// outcomeOf is an attempt's result as its proxy's rules need it.
func outcomeOf(r *registrar.Result) proxy.Outcome {
	return proxy.Outcome{
		Revision: r.Revision, Incarnation: r.Incarnation, Known: r.Known, Written: r.Written, Verified: r.Verified, At: r.At,
		Err: r.Err, FoundIncarnation: r.FoundIncarnation, Missing: r.Missing, Superseded: r.Superseded, By: r.By,
	}
}

// withKey is the item of a registration's key; nil where there is none. A map of keys would cost as much as all else that is
// kept of a name.
func (l *loop) withKey(key string) *managed {
	name, err := nameOf(key)
	if err != nil {
		return nil
	}
	if it := l.byName[name]; it != nil && it.key == key {
		return it
	}
	return nil
}

// nameOf is the subscription's name in a registration's key.
func nameOf(key string) (string, error) {
	return subscription.DecodeToken(key[strings.LastIndexByte(key, '.')+1:])
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

// rules are the settings in force, for all that the instance is configured with, in whichever store.
func (l *loop) rules() *proxy.Settings {
	base, n := l.settings.Load(), l.configured.Load()
	if base != l.stretchedFrom || n != l.stretchedFor {
		l.stretched, l.stretchedFrom, l.stretchedFor = base.Stretched(int(n)), base, n
	}
	return &l.stretched
}
