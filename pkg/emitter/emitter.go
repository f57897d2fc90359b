package emitter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"golang.org/x/sync/errgroup"

	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/digest"
	"github.com/exesdb/subproxy/pkg/election"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/link"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Store is a store that an emitter is a candidate for.
type Store struct {
	Stream StreamConfig
	Layout Layout
}

// Config says what an emitter is a candidate for, and where it finds things. Stores and Candidate are
// required.
type Config struct {
	Stores    []Store
	Candidate registration.Owner // this run; its ID is new at each start

	LeaseTTL           time.Duration // default lease.DefaultTTL
	CheckpointInterval time.Duration // default DefaultCheckpointInterval

	Registry                kv.Config // the bucket of registrations
	Checkpoints             kv.Config // how their bucket is created; only replicas, Memory and Storage count
	LeaderChangedSubject    string    // default cluster.LeaderChangedSubject
	EmitterRestartedSubject string    // default cluster.EmitterRestartedSubject

	// Park keeps an event that can't be sent to a subscription, ever: it is too large with its headers.
	// Without it such an event holds its subscription. Epoch names the history that its sequence is of.
	Park func(ctx context.Context, r *registration.Registration, e *event.Event, epoch, reason string) error
	// Hindered is the permission that the emitter lacks, and what it stops; empty: none. It may be nil.
	Hindered func() string
	// Local, where set, is the receiving end of an instance in the same process.
	Local   Local
	Logger  *slog.Logger
	Metrics *Metrics
}

// Local takes messages for the deliver subjects that begin with a prefix, without the way over NATS;
// *delivery.Delivery is one.
type Local interface {
	Prefix() string
	Offer(h event.Handoff) bool // the message is the taker's then; false: send it
}

// Emitter is a process that contends for the leadership of stores, and sends their events while it leads.
type Emitter struct {
	cfg           Config
	nc            *nats.Conn
	js            jetstream.JetStream
	log           *slog.Logger
	digest        *digest.Log // closed when Run ends
	metrics       *Metrics
	registrations *kv.Bucket
	leases        *kv.Bucket
	points        *kv.Bucket
	ensuring      sync.Mutex
	rosters       map[string]*roster // by the store's token
}

// Open opens the buckets and the stores' streams, creating what is absent.
func Open(ctx context.Context, js jetstream.JetStream, cfg Config) (*Emitter, error) {
	e := &Emitter{cfg: cfg, nc: js.Conn(), js: js, log: cfg.Logger, metrics: cfg.Metrics, rosters: map[string]*roster{}}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	e.digest = digest.New(e.log, digest.Interval)
	if e.metrics == nil {
		e.metrics = NewMetrics(nil)
	}
	if e.cfg.LeaderChangedSubject == "" {
		e.cfg.LeaderChangedSubject = cluster.LeaderChangedSubject
	}
	if e.cfg.EmitterRestartedSubject == "" {
		e.cfg.EmitterRestartedSubject = cluster.EmitterRestartedSubject
	}
	if e.cfg.CheckpointInterval == 0 {
		e.cfg.CheckpointInterval = DefaultCheckpointInterval
	}
	registrations := cfg.Registry
	registrations.OnlyRead = true
	// What is wrong with any of them is one error, so that it takes one start to know it.
	var unfit []error
	for _, one := range []struct {
		cfg kv.Config
		to  **kv.Bucket
	}{{registrations, &e.registrations}, {e.bucket(kv.Cluster), &e.leases}, {e.bucket(kv.Checkpoints), &e.points}} {
		bucket, err := kv.Open(ctx, js, one.cfg)
		var missing *kv.MissingSettingError
		switch {
		case errors.As(err, &missing):
			unfit = append(unfit, err)
		case err != nil:
			return nil, err
		}
		*one.to = bucket
	}
	for _, s := range cfg.Stores {
		if err := s.Layout.Validate(); err != nil {
			return nil, fmt.Errorf("store %s: %w", s.Stream.Store, err)
		}
		stream, err := OpenStream(ctx, js, s.Stream)
		if err != nil {
			return nil, err
		}
		if err := CheckStream(s.Stream.Store, stream.CachedInfo().Config); err != nil {
			unfit = append(unfit, err)
			continue
		}
		e.sayCost(s.Stream.Store, stream.CachedInfo())
		e.rosters[subscription.EncodeToken(s.Stream.Store)] = newRoster()
	}
	if len(unfit) > 0 {
		return nil, errors.Join(unfit...)
	}
	return e, nil
}

// bucket is the configuration of one of the other buckets: it is stored as the registrations are.
func (e *Emitter) bucket(kind kv.Kind) kv.Config {
	c := e.cfg.Registry
	c.Kind, c.Bucket, c.OnlyRead, c.Logger = kind, "", false, e.log
	if kind == kv.Cluster {
		c.Records = 0 // those are of subscriptions
	}
	if own := e.cfg.Checkpoints; kind == kv.Checkpoints && own.Replicas > 0 {
		c.Replicas, c.Memory, c.Storage = own.Replicas, own.Memory, own.Storage
	}
	return c
}

// sayCost says what it costs that an existing stream is not set up as ours are.
func (e *Emitter) sayCost(store string, info *jetstream.StreamInfo) {
	log, c := e.log.With("store", store, "stream", info.Config.Name), info.Config
	if feed.ModeOf(c) == feed.ModeOrdered {
		log.Warn("the store's stream does not republish what it stores; it is followed by an ordered consumer, which pauses for a second or two when its NATS node dies. To mend it: nats stream edit " +
			c.Name + " " + republishFlags(store))
	}
	if !c.AllowDirect {
		log.Warn("the store's stream does not allow direct get; old events are read one by one from its leader, some twenty times slower. To mend it: nats stream edit " + c.Name + " --allow-direct")
	}
	if c.Retention == jetstream.WorkQueuePolicy {
		log.Warn("the store's stream has work-queue retention: what a consumer acknowledges is gone, also for subscriptions that have not had it yet")
	}
}

// Run contends, and leads where it is elected, until ctx ends. It gives its leases back then.
func (e *Emitter) Run(ctx context.Context) error {
	defer e.digest.Close()
	follower, err := lease.NewFollower(e.js, e.leases, e.log)
	if err != nil {
		return err
	}
	records, err := feed.New(e.js, feed.Config{Stream: e.registrations.Stream(), StartSeq: 1, Handler: (*recordHandler)(e), Logger: e.log})
	if err != nil {
		return err
	}
	// What is followed is followed until the last leader has ended.
	following, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var feeds errgroup.Group
	feeds.Go(func() error { return follower.Run(following) })
	feeds.Go(func() error { return records.Run(following) })
	var g errgroup.Group
	var elections []*election.Election
	for _, s := range e.cfg.Stores {
		election, err := e.contest(s, follower)
		if err != nil {
			cancel()
			return errors.Join(err, feeds.Wait())
		}
		elections = append(elections, election)
	}
	for i, s := range e.cfg.Stores {
		e.tell(e.cfg.EmitterRestartedSubject, cluster.Event{Kind: cluster.EmitterRestarted, Store: s.Stream.Store, Emitter: e.cfg.Candidate.Name})
		g.Go(func() error { return elections[i].Run(ctx) })
	}
	err = g.Wait()
	cancel()
	return errors.Join(err, feeds.Wait())
}

func (e *Emitter) contest(s Store, follower *lease.Follower) (*election.Election, error) {
	store := s.Stream.Store
	r := e.rosters[subscription.EncodeToken(store)]
	return election.New(election.Config{
		Store: store, Candidate: e.cfg.Candidate, Follower: follower, TTL: e.cfg.LeaseTTL, MinTerm: r.highestTerm, Logger: e.log,
		Ensure: func(ctx context.Context) error {
			_, err := e.ensure(ctx, e.leases, kv.Cluster)
			return err
		},
		Lead: func(ctx context.Context, lease *election.Lease) {
			if err := e.lead(ctx, s, r, lease); err != nil && ctx.Err() == nil {
				e.log.Error("leading failed; another may", "store", store, "error", err)
			}
		},
	})
}

// ensure opens a bucket again after it was found gone.
func (e *Emitter) ensure(ctx context.Context, bucket *kv.Bucket, kind kv.Kind) (created bool, err error) {
	e.ensuring.Lock()
	defer e.ensuring.Unlock()
	created, err = bucket.Ensure(ctx, e.bucket(kind))
	if created {
		e.log.Error("a bucket was gone and is created anew", "bucket", bucket.Name())
	}
	return created, err
}

func (e *Emitter) lead(ctx context.Context, s Store, r *roster, lease *election.Lease) error {
	store := s.Stream.Store
	previous, why := lease.Previous()
	announce := func(term uint64) {
		e.log.Info("leading the store's emitters", "store", store, "term", term, "previous", previous.Leader, "reason", why)
		e.metrics.Term.WithLabelValues(store).Set(float64(term))
		e.tell(e.cfg.LeaderChangedSubject, cluster.Event{
			Kind: cluster.LeaderChanged, Store: store, Leader: e.cfg.Candidate.Name, PreviousLeader: previous.Leader, Term: term, Reason: string(why),
		})
	}
	announce(lease.Term())
	e.metrics.Leads.WithLabelValues(store).Set(1)
	defer e.metrics.Leads.WithLabelValues(store).Set(0)
	defer e.metrics.Trouble.DeleteLabelValues(store)
	log := e.log.With("store", store)
	l := newLeader(outside{
		store: store, stream: s.Stream.name(), name: e.cfg.Candidate.Name, layout: s.Layout, interval: e.cfg.CheckpointInterval,
		lease: lease, nc: e.nc, link: link.Of(e.nc), js: e.js, local: e.cfg.Local, log: log, digest: e.digest, metrics: e.metrics, announce: announce, lacks: e.cfg.Hindered,
		saved: &savedPlaces{
			store: store, bucket: e.points, log: log, link: link.Of(e.nc),
			ensure: func(ctx context.Context) (bool, error) { return e.ensure(ctx, e.points, kv.Checkpoints) },
		},
		park: func(ctx context.Context, r *record, ev *event.Event, epoch, reason string) error {
			if e.cfg.Park == nil {
				return errNowhere
			}
			return e.cfg.Park(ctx, &r.Registration, ev, epoch, reason)
		},
	})
	if s.Stream.name() == StreamName(store) && s.Stream.Name == "" {
		l.remaking.open = func(ctx context.Context) error {
			_, err := OpenStream(ctx, e.js, s.Stream)
			return err
		}
	}
	r.attach(l)
	defer r.detach()
	err := l.run(ctx)
	e.log.Info("no longer leading the store's emitters", "store", store, "reason", context.Cause(ctx))
	return err
}

var errNowhere = errors.New("there is nowhere to park events")

func (e *Emitter) tell(subject string, ev cluster.Event) {
	ev.ID, ev.SeenAt = nuid.Next(), time.Now()
	if err := cluster.Announce(e.nc, subject, ev); err != nil {
		// Those who wait for it find out by their registrations' timers.
		e.log.Warn("a cluster event could not be announced", "store", ev.Store, "error", err)
	}
}
