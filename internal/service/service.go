package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nuid"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/health"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registry"
)

// Options are what an instance is started with. Config is required.
type Options struct {
	Config  *config.Config
	Version string
	Logger  *slog.Logger
	Metrics *health.Metrics
	// OnRegistered is the supervisor's (see proxy.Options).
	OnRegistered func(store string, cause registry.Cause, n int, at time.Time)
	// StartTimeout bounds how long to wait for NATS and JetStream at the start; default 30 s.
	StartTimeout time.Duration
}

// Service is a running instance.
type Service struct {
	cfg     atomic.Pointer[config.Config]
	version string
	owner   registry.Owner
	log     *slog.Logger
	metrics *health.Metrics

	nc         *nats.Conn
	js         jetstream.JetStream
	bucket     *registry.Registry
	feed       *feed.Feed
	supervisor *proxy.Supervisor
	control    micro.Service

	mu       sync.Mutex // guards listener
	listener *cluster.Listener

	// first is what the proxies were told last of the bucket's first revision, and settled whether they were told twice.
	// The feed's goroutine owns them.
	first   uint64
	settled bool

	ensuring sync.Mutex
	denied   chan error // permission violations while starting
	// registered is closed at the first registration.
	registered chan struct{}
	cancel     context.CancelFunc
	work       sync.WaitGroup
}

// Start connects, opens the bucket, and begins to hold the configured subscriptions. It returns when the instance runs;
// its first registrations may still be under way (see Ready).
func Start(ctx context.Context, o Options) (_ *Service, err error) {
	host, _ := os.Hostname()
	s := &Service{
		version: o.Version, log: o.Logger, metrics: o.Metrics,
		owner:  registry.Owner{Name: o.Config.Instance.Name, ID: nuid.Next(), Host: host, PID: os.Getpid()},
		denied: make(chan error, 16), registered: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.metrics == nil {
		s.metrics = health.NewMetrics(nil)
	}
	s.cfg.Store(o.Config)
	if o.StartTimeout == 0 {
		o.StartTimeout = 30 * time.Second
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	starting, cancel := context.WithTimeout(ctx, o.StartTimeout)
	defer cancel()
	if err := s.connect(starting); err != nil {
		return nil, err
	}
	if err := s.open(starting); err != nil {
		return nil, err
	}
	s.supervisor = proxy.New(proxy.Options{
		Owner: s.owner, Bucket: s.bucket, Settings: settings(o.Config), Publish: s.nc.Publish, Connected: s.nc.IsConnected,
		Ensure: s.ensure, Logger: s.log, Metrics: s.metrics, OnRegistered: s.tellFirst(o.OnRegistered),
	})
	s.supervisor.Apply(subscriptions(o.Config))
	if err := s.follow(); err != nil {
		return nil, err
	}
	if s.listener, err = s.listen(o.Config); err != nil {
		return nil, err
	}
	if err := s.serve(); err != nil {
		return nil, err
	}
	return s, s.tried(starting)
}

// tellFirst closes s.registered at the first registration.
func (s *Service) tellFirst(next func(string, registry.Cause, int, time.Time)) func(string, registry.Cause, int, time.Time) {
	var once sync.Once
	return func(store string, cause registry.Cause, n int, at time.Time) {
		once.Do(func() { close(s.registered) })
		if next != nil {
			next(store, cause, n, at)
		}
	}
}

// tried waits for the first registration, because a missing permission shows when it is used. Where none comes within
// patience, the reason is another one: the instance runs, and goes on trying.
func (s *Service) tried(ctx context.Context) error {
	const (
		patience = 2 * time.Second
		look     = 10 * time.Millisecond
	)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for first := subscriptions(s.cfg.Load()); len(first) > 0; {
		if err := s.permitted(); err != nil {
			return err
		}
		select {
		case <-s.registered:
			// What is asked of the proxies now is answered after they said that they are registered.
			_, _ = s.supervisor.Statuses(ctx, first[0].Store, first[0].Name)
			return s.permitted()
		case <-time.After(look):
		case <-ctx.Done():
			return s.permitted()
		}
	}
	return s.permitted()
}

func (s *Service) connect(ctx context.Context) error {
	c := s.cfg.Load().NATS
	for {
		nc, js, err := connect.Connect(ctx, connect.Options{
			URL: c.URL, Context: c.Context, Credentials: c.Credentials,
			TLSCA: c.TLS.CA, TLSCert: c.TLS.Cert, TLSKey: c.TLS.Key, TLSHandshakeFirst: c.TLS.HandshakeFirst,
			Name: "subproxy " + s.owner.Name, Logger: s.log,
			OnReconnect: s.reconnected, OnDisconnect: func() { s.log.Warn("disconnected from NATS; reconnecting") }, OnError: s.natsError,
		})
		if err == nil {
			s.nc, s.js = nc, js
			s.log.Info("connected to NATS", "url", nc.ConnectedUrlRedacted(), "server", nc.ConnectedServerName(), "instance", s.owner.Name, "id", s.owner.ID)
			return nil
		}
		if !isTransient(err) {
			return err
		}
		s.log.Warn("NATS is not reachable yet", "error", err)
		if !sleep(ctx, time.Second) {
			return err
		}
	}
}

// isTransient reports whether waiting may help: nobody listens yet. Wrong credentials don't mend themselves.
func isTransient(err error) bool {
	return errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout)
}

// open opens the bucket, waiting for a JetStream that is only starting.
func (s *Service) open(ctx context.Context) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		bucket, err := registry.Open(attempt, s.js, s.bucketConfig())
		cancel()
		if err == nil {
			s.bucket = bucket
			return nil
		}
		var missing *registry.MissingSettingError
		if errors.As(err, &missing) {
			return err
		}
		if denied := s.permitted(); denied != nil {
			return denied
		}
		s.log.Warn("JetStream is not ready yet", "error", connect.Explain(err))
		if !sleep(ctx, time.Second) {
			return connect.Explain(err)
		}
	}
}

func (s *Service) bucketConfig() registry.Config {
	c := s.cfg.Load()
	return registry.Config{
		Bucket: c.Registry.Bucket, Replicas: c.Registry.Replicas, Memory: c.Registry.Storage == "memory",
		AckWait: c.SubscriptionProxy.VerificationTimeout,
	}
}

// ensure opens the bucket again after it was found gone. Many batches find that at once; they take turns, and all but
// the first find it there.
func (s *Service) ensure(ctx context.Context) error {
	s.ensuring.Lock()
	defer s.ensuring.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	created, err := s.bucket.Ensure(ctx, s.bucketConfig())
	if err != nil {
		return err
	}
	if created {
		s.log.Warn("the registry bucket was gone and is created anew; every registration is written again", "bucket", s.bucket.Bucket())
		s.feed.Poke()
	}
	return nil
}

// follow starts the feed of the bucket, which lets the proxies begin once it has shown all there is.
func (s *Service) follow() error {
	f, err := feed.New(s.js, feed.Config{Stream: s.bucket.Stream(), StartSeq: 1, Handler: (*follower)(s), First: s.trimmed, Logger: s.log})
	if err != nil {
		return fmt.Errorf("follow bucket %s: %w", s.bucket.Bucket(), err)
	}
	s.feed = f
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.work.Go(func() {
		if err := f.Run(ctx); err != nil {
			s.log.Error("the registry is no longer followed", "error", err)
		}
	})
	// A bucket that can't be read yet must not keep the proxies from trying: a conflict tells them what was there.
	const patience = 5 * time.Second
	timer := time.AfterFunc(patience, s.supervisor.Begin)
	s.work.Go(func() {
		<-ctx.Done()
		timer.Stop()
	})
	return nil
}

// follower is the Service as the feed's handler.
type follower Service

// Message implements feed.Handler.
func (f *follower) Message(m feed.Message) {
	f.supervisor.Entry(f.bucket.NewEntry(m.Subject, m.Sequence, m.Header, m.Data, m.Time))
}

// Level implements feed.Handler.
func (f *follower) Level(uint64) { f.supervisor.Begin() }

// Reset implements feed.Handler.
func (f *follower) Reset(reason error) {
	f.log.Warn("the registry bucket is not what it was; every registration is written again", "reason", reason)
	f.supervisor.Void()
}

// trimmed tells the proxies where the bucket begins now: at each change, and at the next look once more, for those whose
// attempts were under way.
func (s *Service) trimmed(first uint64) {
	if first == s.first && s.settled {
		return
	}
	s.first, s.settled = first, first == s.first
	s.supervisor.Trimmed(first)
}

func (s *Service) listen(c *config.Config) (*cluster.Listener, error) {
	lc := cluster.Config{OnEvent: s.event, OnDeleted: s.deleted, Logger: s.log}
	if c.SubscriptionProxy.EnableClusterEventSubscriptions {
		lc.LeaderChangedSubject = c.SubscriptionProxy.LeaderChangedSubject
		lc.EmitterRestartedSubject = c.SubscriptionProxy.EmitterRestartedSubject
		lc.Deleted = s.bucket.Stream()
		lc.Bridge = bridged(c, s.bucket.Stream())
	}
	return cluster.Listen(s.nc, lc)
}

func bridged(c *config.Config, bucketStream string) (streams []cluster.Bridged) {
	if c.Bridge.Registry {
		streams = append(streams, cluster.Bridged{Stream: bucketStream, Kind: cluster.LeaderChanged})
	}
	for _, b := range c.Bridge.Streams {
		streams = append(streams, cluster.Bridged{Stream: b.Stream, Store: b.Store, Kind: cluster.Kind(b.Event)})
	}
	return streams
}

func (s *Service) event(e cluster.Event) {
	s.metrics.Events.WithLabelValues(string(e.Kind)).Inc()
	if e.Malformed {
		s.metrics.Malformed.Inc()
	}
	s.supervisor.Tell(e.Store, proxy.Cluster{Cause: registry.Cause(e.Kind), Topic: e.Topic, Term: e.Term, Leader: e.Leader, SeenAt: e.SeenAt})
}

// deleted is the advisory that the bucket's stream was deleted: make it anew now, not when the next attempt finds out.
func (s *Service) deleted() {
	s.work.Go(func() {
		if err := s.ensure(context.Background()); err != nil {
			s.log.Warn("the registry bucket was deleted and could not be created anew yet", "error", err)
		}
	})
}

func (s *Service) reconnected() {
	s.log.Info("reconnected to NATS", "url", s.nc.ConnectedUrlRedacted(), "server", s.nc.ConnectedServerName())
	if s.supervisor == nil {
		return
	}
	s.feed.Poke()
	if s.cfg.Load().SubscriptionProxy.EnableClusterEventSubscriptions {
		s.supervisor.Tell("", proxy.Cluster{Cause: registry.Reconnected, SeenAt: time.Now()})
	}
}

func (s *Service) natsError(_ *nats.Conn, sub *nats.Subscription, err error) {
	if errors.Is(err, connect.ErrPermission) {
		select {
		case s.denied <- err:
		default:
		}
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	s.log.Warn("NATS reported an error", "subject", subject, "error", err)
}

// permitted asks the server whether it refused anything so far.
func (s *Service) permitted() error {
	if err := s.nc.FlushTimeout(2 * time.Second); err != nil {
		return nil // a connection that is just down is not refused
	}
	// NATS tells the handler of an error after the flush has returned, perhaps, but keeps the last error before.
	if err := connect.Explain(s.nc.LastError()); errors.Is(err, connect.ErrPermission) {
		return err
	}
	select {
	case err := <-s.denied:
		return err
	default:
		return nil
	}
}

// Ready reports whether NATS is connected and every subscription's first registration was tried; else why not.
func (s *Service) Ready(ctx context.Context) error {
	switch {
	case !s.nc.IsConnected():
		return errors.New("not connected to NATS")
	case s.supervisor.Retired():
		return errors.New("another run of this instance's name took over")
	case !s.supervisor.Ready(ctx):
		return errors.New("first registrations are under way")
	default:
		return nil
	}
}

// Supervisor is for what reads statuses: the HTTP server and tests.
func (s *Service) Supervisor() *proxy.Supervisor { return s.supervisor }

// Owner is this instance, as it stands in its registrations.
func (s *Service) Owner() registry.Owner { return s.owner }

// URL is what the instance was told to connect to.
func (s *Service) URL() string { return s.cfg.Load().NATS.URL }

// FeedStats are the feed's counters.
func (s *Service) FeedStats() feed.Stats { return s.feed.Stats() }

// Connected reports whether there is a NATS connection.
func (s *Service) Connected() bool { return s.nc.IsConnected() }

// Stop drains and releases: no new attempts, those under way end, every registration is deleted, the connection is
// drained. When ctx ends first it stops where it is.
func (s *Service) Stop(ctx context.Context) {
	s.stopListening()
	if s.control != nil {
		if err := s.control.Stop(); err != nil {
			s.log.Debug("stop the control service", "error", err)
		}
	}
	s.supervisor.Stop(ctx)
	if err := s.nc.FlushWithContext(ctx); err != nil {
		s.log.Debug("flush on stop", "error", err)
	}
	s.close()
}

func (s *Service) stopListening() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		if err := s.listener.Close(); err != nil {
			s.log.Debug("stop listening", "error", err)
		}
		s.listener = nil
	}
}

// close ends what was begun, without releasing anything.
func (s *Service) close() {
	s.stopListening()
	if s.supervisor != nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		s.supervisor.Stop(ended)
	}
	if s.cancel != nil {
		s.cancel()
	}
	s.work.Wait()
	if s.nc != nil {
		s.nc.Close()
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
