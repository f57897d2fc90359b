package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/registry"
)

// Errors of an election.
var (
	// ErrElection is returned by NewElection for a configuration that can't be run.
	ErrElection = errors.New("election: invalid configuration")
	// ErrDeposed is returned by a lease's methods once the lease is held no more, and is the cause of Lead's context then.
	ErrDeposed = errors.New("the leader's lease is held no more")
	// ErrLastTerm is returned where a term is asked for above the last there is.
	ErrLastTerm = errors.New("there is no higher term")
)

// Defaults of an election.
const (
	DefaultTTL       = 3 * time.Second
	DefaultGrace     = time.Second
	DefaultFlushWait = 10 * time.Second
)

// minTTL leaves a renewal a few round trips.
const minTTL = 100 * time.Millisecond

// ensureWait bounds one try to create the bucket anew.
const ensureWait = 5 * time.Second

// ElectionConfig says who contends for what.
type ElectionConfig struct {
	Store     string
	Candidate registry.Owner // its ID must be new at each start, and run one election a store at a time
	Follower  *Follower      // of the cluster bucket; may serve many elections

	TTL   time.Duration // how long a leader that is silent stays one; default DefaultTTL
	Grace time.Duration // the part of it that counts only while JetStream answers; default DefaultGrace, at most half of TTL
	// FlushWait is how long the lease is still renewed after Run's context has ended, for Lead to return; default
	// DefaultFlushWait. Run itself waits as long as Lead takes.
	FlushWait time.Duration

	// Lead is called each time that the candidate is elected, never twice at once. Its context ends when the lease is
	// lost (the cause is ErrDeposed) or Run's context ends. If it returns while leading, the candidate resigns, and lets
	// others lead for a TTL.
	Lead func(ctx context.Context, l *Lease)
	// MinTerm is optional: the highest term of the store that the caller knows of, such as from registrations. It must not block.
	MinTerm func() uint64
	// Ensure is optional. It is called when the bucket is found gone, and should create it.
	Ensure func(ctx context.Context) error
	Logger *slog.Logger // optional
}

func (cfg *ElectionConfig) fill() error {
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	cfg.Grace = min(cfg.Grace, cfg.TTL/2)
	if cfg.FlushWait == 0 {
		cfg.FlushWait = DefaultFlushWait
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Store == "" || cfg.Candidate.ID == "" || cfg.Follower == nil || cfg.Lead == nil:
		return fmt.Errorf("%w: a store, a candidate with an id, a follower and what to do as leader are needed", ErrElection)
	case cfg.TTL < minTTL || cfg.TTL > maxTTL:
		return fmt.Errorf("%w: TTL %s is not from %s to %s", ErrElection, cfg.TTL, minTTL, maxTTL)
	case cfg.Grace < 0 || cfg.FlushWait < 0:
		return fmt.Errorf("%w: grace %s, flush wait %s", ErrElection, cfg.Grace, cfg.FlushWait)
	}
	return nil
}

// Election is one candidate's part in the election of one store's leader.
type Election struct {
	cfg    ElectionConfig
	log    *slog.Logger
	leader atomic.Pointer[Record]
}

// NewElection checks cfg. It sends nothing.
func NewElection(cfg ElectionConfig) (*Election, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	return &Election{cfg: cfg, log: cfg.Logger.With("store", cfg.Store, "candidate", cfg.Candidate.Name)}, nil
}

// Leader is who leads, as far as this candidate knows while it runs.
func (e *Election) Leader() (Record, bool) {
	if r := e.leader.Load(); r != nil {
		return *r, true
	}
	return Record{}, false
}

// Run contends until ctx ends, and leads whenever it is elected. It returns nil after Lead has returned and the lease is
// given back; an error says that this could not be done, and the next leader has to wait for the TTL.
func (e *Election) Run(ctx context.Context) error {
	c := &campaign{
		Election: e, ctx: ctx,
		rules: candidacy{
			store: e.cfg.Store, self: e.cfg.Candidate, ttl: e.cfg.TTL, grace: e.cfg.Grace, flushWait: e.cfg.FlushWait,
			minTerm: e.cfg.MinTerm, rand: rand.Float64,
		},
		news:     make(chan struct{}, 1),
		answers:  make(chan input, 1),
		ensured:  make(chan error, 1),
		returned: make(chan struct{}, 1),
		asks:     make(chan *ask),
	}
	defer e.cfg.Follower.watch(LeaderKey(e.cfg.Store), c)()
	return c.run()
}

// campaign is one Run: it does what the rules say. Its goroutine owns what is not said to be shared.
type campaign struct {
	*Election
	ctx   context.Context
	rules candidacy
	work  sync.WaitGroup // requests and Lead

	mu     sync.Mutex
	inputs []input       // guarded by mu: what the feed showed
	news   chan struct{} // says that there are inputs; holds one

	answers  chan input // of the request; holds the one there can be
	ensured  chan error // holds the one there can be
	ensuring bool
	returned chan struct{} // Lead returned; holds one
	asks     chan *ask

	lease   *Lease // nil while not leading
	end     context.CancelCauseFunc
	waiting []*ask // their renewal is still to be sent
	sent    []*ask // their renewal is on its way
	gaveUp  bool   // resigning was not acknowledged
	failing string // the failure logged last, in a row
	timer   *time.Timer
}

// ask is a leader's wish for a renewal.
type ask struct {
	input
	lease *Lease
	done  chan error // holds the one answer
}

func (c *campaign) run() error {
	c.timer = time.NewTimer(0)
	defer c.timer.Stop()
	defer c.work.Wait()
	defer c.leader.Store(nil)
	stop := c.ctx.Done()
	for done := false; !done; {
		select {
		case <-stop:
			stop = nil
			done = c.step(input{kind: stopped})
		case <-c.timer.C:
			done = c.step(input{kind: due})
		case <-c.news:
			for _, in := range c.take() {
				done = c.step(in)
			}
		case in := <-c.answers:
			done = c.step(in)
		case <-c.returned:
			done = c.step(input{kind: returned})
		case err := <-c.ensured:
			c.ensuring = false
			c.report(err)
		case a := <-c.asks:
			if a.lease != c.lease {
				a.done <- ErrDeposed
				break
			}
			c.waiting = append(c.waiting, a)
			done = c.step(a.input)
		}
	}
	if c.gaveUp {
		return fmt.Errorf("resign as leader of store %s: not acknowledged within %s", c.cfg.Store, resignWait)
	}
	return nil
}

// heard implements watcher.
func (c *campaign) heard(in input) {
	c.mu.Lock()
	c.inputs = append(c.inputs, in)
	c.mu.Unlock()
	select {
	case c.news <- struct{}{}:
	default:
	}
}

func (c *campaign) take() []input {
	c.mu.Lock()
	defer c.mu.Unlock()
	inputs := c.inputs
	c.inputs = nil
	return inputs
}

// step lets the rules decide, and does what they say.
func (c *campaign) step(in input) (done bool) {
	fx := c.rules.Step(in, time.Now())
	c.report(fx.Failed)
	if in.kind == answered {
		if in.err == nil {
			c.failing = ""
		}
		if !fx.Renewed { // the next renewal is for them too
			c.waiting, c.sent = append(c.sent, c.waiting...), nil
		}
	}
	if fx.Deposed || fx.Resigned {
		c.over(fx.Deposed)
	}
	if fx.Elected {
		c.begin()
	}
	c.publish()
	if fx.Renewed {
		for _, a := range c.sent {
			a.done <- nil
		}
		c.sent = nil
	}
	switch {
	case fx.Read:
		c.request(func(ctx context.Context) (in input) {
			in.entry, in.found, in.err = c.cfg.Follower.bucket.GetFromLeader(ctx, LeaderKey(c.cfg.Store))
			return in
		})
	case fx.Write != nil:
		c.sent, c.waiting = c.waiting, nil
		c.request(func(ctx context.Context) input {
			r := c.cfg.Follower.bucket.Put(ctx, []registry.Write{*fx.Write})[0]
			return input{revision: r.Revision, err: r.Err}
		})
	}
	if fx.Ensure && !c.ensuring && c.cfg.Ensure != nil {
		c.ensure()
	}
	c.timer.Stop()
	if !fx.Next.IsZero() {
		c.timer.Reset(time.Until(fx.Next))
	}
	return fx.Done
}

// request makes the one request at a time. It gets half the grace: one that was sent while JetStream was away must be
// over, and be sent again, before the others have waited out theirs. It ends by time and not with Run, which needs to
// know what became of a write.
func (c *campaign) request(do func(context.Context) input) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), max(c.cfg.Grace/2, minRetry))
	c.work.Go(func() {
		defer cancel()
		in := do(ctx)
		in.kind = answered
		c.answers <- in
	})
}

// ensure is beside the requests: while it waits for a bucket that has no leader, renewals go on.
func (c *campaign) ensure() {
	c.ensuring = true
	ctx, cancel := context.WithTimeout(c.ctx, ensureWait)
	c.work.Go(func() {
		defer cancel()
		err := c.cfg.Ensure(ctx)
		if err == nil {
			c.cfg.Follower.feed.Poke()
		}
		c.ensured <- err
	})
}

func (c *campaign) begin() {
	ctx, end := context.WithCancelCause(c.ctx)
	l := &Lease{previous: c.rules.before, vacancy: c.rules.vacancy, asks: c.asks, ended: make(chan struct{})}
	held := c.rules.held
	l.held.Store(&held)
	c.lease, c.end = l, end
	c.log.Info("elected leader of the store", "term", l.Term(), "vacancy", l.vacancy, "previous_leader", l.previous.Leader)
	c.work.Go(func() {
		defer end(nil)
		c.cfg.Lead(ctx, l)
		c.returned <- struct{}{}
	})
}

// over ends the leadership, and tells all who wait for a renewal.
func (c *campaign) over(deposed bool) {
	unknown := c.rules.view.is == unread || c.rules.ours()
	c.gaveUp = c.rules.stopping && !deposed && unknown
	if c.lease != nil { // nil where it was won after Run's context had ended
		if deposed {
			c.end(ErrDeposed)
			c.log.Warn("deposed as leader of the store", "term", c.lease.Term(), "by", c.rules.view.record.Leader, "by_term", c.rules.view.record.Term)
		} else {
			c.log.Info("resigned as leader of the store", "term", c.lease.Term(), "acknowledged", !unknown)
		}
		close(c.lease.ended)
		c.lease = nil
	}
	for _, a := range append(c.sent, c.waiting...) {
		a.done <- ErrDeposed
	}
	c.sent, c.waiting = nil, nil
}

// publish makes what is known now visible to other goroutines.
func (c *campaign) publish() {
	var known *Record
	switch r := &c.rules; {
	case r.leading:
		held := r.held
		known = &held
		if c.lease != nil {
			c.lease.held.Store(&held)
		}
	case r.view.is == leased:
		record := r.view.record
		known = &record
	}
	c.leader.Store(known)
}

// report logs a failure once in a row.
func (c *campaign) report(err error) {
	if err == nil {
		return
	}
	level := slog.LevelDebug
	if c.failing != err.Error() {
		c.failing, level = err.Error(), slog.LevelWarn
	}
	c.log.Log(c.ctx, level, "the leader's lease could not be read or written", "leading", c.rules.leading, "error", err)
}

// Lease is a leadership. Its methods may be called from any goroutine, also after it ended.
type Lease struct {
	held     atomic.Pointer[Record]
	previous Record
	vacancy  Vacancy
	asks     chan<- *ask
	ended    chan struct{} // closed when the lease is held no more
}

// Term is the leadership's term. It is above that of every leader before, and may rise: after RaiseTerm, and where the
// lease had vanished and was written again.
func (l *Lease) Term() uint64 { return l.held.Load().Term }

// Epoch is what the last SetEpoch set, this leader's or one's before.
func (l *Lease) Epoch() string { return l.held.Load().Epoch }

// Previous is the leader before, and why it no longer was one. The record is zero where none is known.
func (l *Lease) Previous() (Record, Vacancy) { return l.previous, l.vacancy }

// SetEpoch writes the epoch to the lease.
func (l *Lease) SetEpoch(ctx context.Context, epoch string) error {
	return l.renew(ctx, "set epoch", input{kind: asked, epoch: &epoch})
}

// Verify renews the lease now. Nil says that it was held at some time during the call. Failing renewals are
// tried again until ctx ends; ErrDeposed says that the lease is lost.
func (l *Lease) Verify(ctx context.Context) error {
	return l.renew(ctx, "verify lease", input{kind: asked})
}

// RaiseTerm renews the lease with a term above the one given: it is for when a higher term has been seen although this is
// the valid lease, since the bucket was lost.
func (l *Lease) RaiseTerm(ctx context.Context, over uint64) error {
	if above(over) == over {
		return fmt.Errorf("raise term over %d: %w", over, ErrLastTerm)
	}
	return l.renew(ctx, "raise term", input{kind: asked, term: over})
}

func (l *Lease) renew(ctx context.Context, what string, in input) error {
	a := &ask{input: in, lease: l, done: make(chan error, 1)}
	select {
	case l.asks <- a:
	case <-l.ended:
		return fmt.Errorf("%s: %w", what, ErrDeposed)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	select {
	case err := <-a.done:
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
}

// Follower follows the cluster bucket for all elections of a process.
type Follower struct {
	bucket *registry.Registry
	feed   *feed.Feed

	mu       sync.RWMutex
	watchers map[string][]watcher // by key
}

// watcher is told of one key, from the feed's goroutine, and does not block.
type watcher interface{ heard(input) }

// NewFollower makes a follower of a bucket opened with registry.Cluster. It sends nothing; the logger may be nil.
func NewFollower(js jetstream.JetStream, bucket *registry.Registry, logger *slog.Logger) (*Follower, error) {
	f := &Follower{bucket: bucket, watchers: make(map[string][]watcher)}
	var err error
	f.feed, err = feed.New(js, feed.Config{
		Stream: bucket.Stream(), StartSeq: 1, Handler: (*dispatch)(f), Logger: logger,
		First: func(revision uint64) { f.tell(input{kind: trimmed, revision: revision}) },
	})
	if err != nil {
		return nil, fmt.Errorf("follow bucket %s: %w", bucket.Bucket(), err)
	}
	return f, nil
}

// Run follows the bucket until ctx ends. Elections run without it too, more slowly.
func (f *Follower) Run(ctx context.Context) error { return f.feed.Run(ctx) }

func (f *Follower) watch(key string, w watcher) (stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers[key] = append(f.watchers[key], w)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		var others []watcher
		for _, other := range f.watchers[key] {
			if other != w {
				others = append(others, other)
			}
		}
		if f.watchers[key] = others; others == nil {
			delete(f.watchers, key)
		}
	}
}

// tell tells every watcher.
func (f *Follower) tell(in input) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, watchers := range f.watchers {
		for _, w := range watchers {
			w.heard(in)
		}
	}
}

// dispatch is the Follower as the feed's handler.
type dispatch Follower

// Message implements feed.Handler.
func (d *dispatch) Message(m feed.Message) {
	e := d.bucket.NewEntry(m.Subject, m.Sequence, m.Header, m.Data, m.Time)
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, w := range d.watchers[e.Key] {
		w.heard(input{kind: heard, entry: e})
	}
}

// Level implements feed.Handler. A candidate reads its key when it begins, so there is nothing to wait for.
func (d *dispatch) Level(uint64) {}

// Reset implements feed.Handler.
func (d *dispatch) Reset(error) { (*Follower)(d).tell(input{kind: voided}) }

// Announce publishes an event on a subject.
func Announce(nc *nats.Conn, subject string, e Event) error {
	data, err := e.Encode()
	if err != nil {
		return fmt.Errorf("announce %s: %w", e.Kind, err)
	}
	if err := nc.Publish(subject, data); err != nil {
		return fmt.Errorf("announce %s on %s: %w", e.Kind, subject, err)
	}
	return nil
}
