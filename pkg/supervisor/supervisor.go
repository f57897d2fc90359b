package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/payload"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registrar"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Options are what a Supervisor works with. Every field but MaxPayload, Delivery, Ensure, Logger and
// Metrics is required.
type Options struct {
	Owner     registration.Owner // this instance
	Bucket    registrar.Bucket
	Settings  proxy.Settings
	Publish   func(subject string, data []byte) error
	Connected func() bool
	// Hindered is why the instance can't do its work, whatever the subscription; empty: it can. It may be
	// nil.
	Hindered func() string
	// MaxPayload, where set, is how many bytes of one message the server takes that Publish sends to; else
	// NATS's default.
	MaxPayload func() int64
	// Delivery, where set, receives the proxies' events and forwards them. It is the caller's to start and
	// to stop.
	Delivery *delivery.Delivery
	// Shares says that subscriptions are shared with other instances, of which Share tells. Else this one
	// takes every subscription from whoever holds it when it starts.
	Shares bool
	// Alerts, where set, publishes the alerts, and knows those that runs which are gone left unresolved.
	Alerts Alerts
	// Ensure opens the bucket again where a write found it gone.
	Ensure  func(context.Context) error
	Logger  *slog.Logger
	Metrics *Metrics
	// OnRetired, where set, is told once that another run of this instance's name took over. It must not
	// block.
	OnRetired func(by registration.Owner)
	// OnRegistered, where set, is told how many registrations a batch brought, and when the last was
	// verified. It is called by the stores' loops and must not block.
	OnRegistered func(store string, cause registration.Cause, n int, at time.Time)
}

// shared is what all loops of a supervisor have in common. It is safe for concurrent use.
type shared struct {
	owner      registration.Owner
	settings   atomic.Pointer[proxy.Settings]
	registrar  *registrar.Registrar
	bucket     registrar.Bucket
	matcher    registration.OwnerMatcher // finds this instance's records
	publisher  func(subject string, data []byte) error
	connected  func() bool
	hindered   func() string // nil: nothing is known
	maxPayload func() int64
	unsent     rate.Sometimes // told that a message could not be published
	logger     *slog.Logger
	metrics    *Metrics
	delivery   *delivery.Delivery
	alerts     Alerts                            // nil: they are only published
	slots      chan struct{}                     // one for each batch under way
	members    atomic.Pointer[placement.Members] // nil inside: subscriptions are not shared
	stopping   atomic.Bool                       // what can't be released now stays
	level      atomic.Bool                       // what the bucket holds was shown before the proxies began
	retired    atomic.Bool                       // another run of this name took over
	retire     func(by registration.Owner)
	onRetired  func(by registration.Owner)
	onReg      func(store string, cause registration.Cause, n int, at time.Time)
	numbers    atomic.Uint64 // of deliver subjects
	configured atomic.Int64  // subscriptions, of all stores
}

// room is how many bytes of JSON the next message may have, but for what names its sender.
func (s *shared) room() int {
	const fields = 512
	return payload.Room(s.maxPayload()) - fields - payload.Text(s.owner.Name) - payload.Text(s.owner.Host)
}

// untold notes that a message could not be published. Without a connection that is nothing new.
func (s *shared) untold(subject string, err error) {
	if !errors.Is(err, nats.ErrMaxPayload) {
		s.logger.Debug("a message could not be published", "subject", subject, "error", err)
		return
	}
	s.unsent.Do(func() {
		s.logger.Warn("a message is larger than the server takes; others like it within a minute are passed over in silence", "subject", subject, "max_payload", s.maxPayload(), "error", err)
	})
}

// maxBatches is how many batches are under way at once: one is written while another is read back, and one
// waits.
const maxBatches = 3

// Supervisor owns the loops, one a store. Run it, give it subscriptions with Apply, tell it what happens.
type Supervisor struct {
	shared
	ctx    context.Context // of Run
	cancel context.CancelFunc

	loops   *loops
	running sync.WaitGroup
	begun   chan struct{} // closed when proxies may start

	attempted atomic.Bool // see Ready
}

// New makes a supervisor without subscriptions.
func New(o Options) *Supervisor {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	s := &Supervisor{
		shared: shared{
			owner: o.Owner, publisher: o.Publish, connected: o.Connected, hindered: o.Hindered, logger: o.Logger, metrics: o.Metrics,
			maxPayload: o.MaxPayload, unsent: rate.Sometimes{Interval: time.Minute}, slots: make(chan struct{}, maxBatches), delivery: o.Delivery, alerts: o.Alerts,
		},
		loops: newLoops(), begun: make(chan struct{}),
	}
	if s.maxPayload == nil {
		s.maxPayload = func() int64 { return payload.Default }
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.settings.Store(&o.Settings)
	s.bucket, s.matcher = o.Bucket, o.Owner.Matcher()
	s.registrar = registrar.New(registrar.Options{
		Bucket: o.Bucket, Owner: o.Owner, Ensure: o.Ensure, Retired: s.retired.Load, Members: s.members.Load,
		Verifications: o.Metrics.Verifications,
	})
	if o.Shares {
		s.members.Store(placement.UnknownMembers(o.Owner))
	}
	s.retire = s.Retire
	if s.onRetired = o.OnRetired; s.onRetired == nil {
		s.onRetired = func(registration.Owner) {}
	}
	if s.onReg = o.OnRegistered; s.onReg == nil {
		s.onReg = func(string, registration.Cause, int, time.Time) {}
	}
	return s
}

// Begin lets the proxies start. Level says that all the bucket holds was passed on before (Entry); else it
// could not be read in time, and what it holds is found out by writing.
func (s *Supervisor) Begin(level bool) {
	s.loops.mu.Lock()
	defer s.loops.mu.Unlock()
	select {
	case <-s.begun:
		return
	default:
		s.level.Store(level)
		close(s.begun)
	}
	for _, l := range s.loops.byStore {
		l.inbox.post((*loop).startAll)
	}
}

// SetSettings changes the numbers for every decision from now on. What is scheduled later than a shorter
// interval allows comes forward.
func (s *Supervisor) SetSettings(settings proxy.Settings) {
	s.settings.Store(&settings)
	s.loops.post((*loop).reschedule)
}

// Apply makes the subscriptions those that are held: new ones start, missing ones are released, changed
// ones restart, the rest do not notice. Each must be valid, and no two may share a store and a name.
func (s *Supervisor) Apply(subscriptions []subscription.Subscription) {
	wanted := map[string][]subscription.Subscription{}
	for _, sub := range subscriptions {
		wanted[sub.Store] = append(wanted[sub.Store], sub)
	}
	s.configured.Store(int64(len(subscriptions)))
	s.loops.mu.Lock()
	defer s.loops.mu.Unlock()
	for store := range wanted {
		if s.loops.byStore[store] == nil {
			l := newLoop(&s.shared, store)
			s.loops.add(l)
			s.running.Go(func() { l.run(s.ctx) })
		}
	}
	started := s.hasBegun()
	for store, l := range s.loops.byStore {
		subs := wanted[store]
		l.inbox.postApply(func(l *loop, _ time.Time) { l.apply(subs, started) })
		if len(subs) == 0 {
			s.loops.remove(l)
			l.inbox.post(func(l *loop, now time.Time) { l.stop(now) })
		}
	}
}

func (s *Supervisor) hasBegun() bool {
	select {
	case <-s.begun:
		return true
	default:
		return false
	}
}

// Stop releases every registration and ends the loops. When ctx ends first they are ended where they are.
func (s *Supervisor) Stop(ctx context.Context) {
	s.stopping.Store(true)
	s.Apply(nil)
	ended := make(chan struct{})
	go func() {
		s.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		s.cancel()
		<-ended
	}
	s.cancel()
}

// Tell passes on what happened in the cluster: to one store's proxies, or to all where store is empty.
func (s *Supervisor) Tell(store string, c Cluster) {
	loops := s.loops.some(store)
	if store != "" && len(loops) == 0 {
		s.metrics.Ignored.WithLabelValues("store").Inc()
	}
	for _, l := range loops {
		l.tell(c)
	}
}

// Progress passes on what a store's emitter says of how far it is.
func (s *Supervisor) Progress(p event.Progress) {
	if l := s.loops.of(p.Store); l != nil {
		l.inbox.post(func(l *loop, now time.Time) { l.progressed(&p, now) })
	}
}

// Inherit passes on an alert that another run raised, and is gone: the store's proxies resolve it once they
// are well. False: nothing of the store is configured here.
func (s *Supervisor) Inherit(a status.Standing) bool {
	l := s.loops.of(a.Store)
	if l != nil {
		l.inbox.post(func(l *loop, now time.Time) { l.alerter.inherit(a, now) })
	}
	return l != nil
}

// Leads passes on that an emitter renewed the lease by which it leads a store's.
func (s *Supervisor) Leads(store, emitter string, term uint64, at time.Time) {
	if l := s.loops.of(store); l != nil {
		l.inbox.leads(lease{sign{at, emitter}, term})
	}
}

// Entry passes on an entry of the bucket.
func (s *Supervisor) Entry(e kv.Entry) {
	store, ok := storeToken(e.Key)
	if !ok {
		return
	}
	l := s.loops.ofToken(store)
	if l == nil {
		return
	}
	if e.Contains(s.matcher) {
		// Only the others' records are read again; a burst of own ones must not be kept in memory.
		e.Data = s.matcher
	}
	l.inbox.entry(e)
}

func storeToken(key string) (string, bool) {
	for i := range len(key) {
		if key[i] == '.' {
			return key[:i], true
		}
	}
	return "", false
}

// Void says that the bucket is new, or went back in time: what it held is not known, and what this instance
// had there is written again.
func (s *Supervisor) Void() {
	for _, l := range s.loops.some("") {
		l.inbox.void()
	}
}

// Trimmed says that the bucket holds nothing below the revision first any more. A record that was there is
// gone though no entry told of it, which is what purging the bucket's stream does. Entries up to now must
// have been passed on before.
func (s *Supervisor) Trimmed(first uint64) {
	s.loops.post(func(l *loop, _ time.Time) { l.trimmed(first) })
}

// Retired reports whether another run of this instance's name took over.
func (s *Supervisor) Retired() bool { return s.retired.Load() }

// Retire ends this run's work, since another run of its name took over: every proxy stands by, and nothing
// is written again.
func (s *Supervisor) Retire(by registration.Owner) {
	if s.retired.Swap(true) {
		return
	}
	s.logger.Error("another run of this instance's name took over; this one stands by and never writes again. If both are meant to run, give each its own instance.name",
		"name", by.Name, "by_host", by.Host, "by_pid", by.PID, "by_id", by.ID)
	s.onRetired(by)
	s.loops.post(func(l *loop, _ time.Time) {
		l.agenda.add(l.each(func(it *managed, now time.Time) {
			l.stepper.step(it, proxy.Input{Kind: proxy.Retired, News: proxy.News{Owner: by}}, now)
			l.actions.settle(it)
		}))
	})
}
