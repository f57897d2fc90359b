package service

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/internal/instance"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
)

// Start connects, opens the bucket, and begins to hold the configured subscriptions. It returns when the
// instance runs; its first registrations may still be under way (see Ready).
func Start(ctx context.Context, o Options) (_ *Service, err error) {
	host, _ := os.Hostname()
	s := &Service{
		version: o.Version, log: o.Logger, metrics: o.Metrics,
		owner:      registration.Owner{Name: o.Config.Instance.Name, ID: nuid.Next(), Host: host, PID: os.Getpid()},
		registered: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.connections = newConnections(s.cfg.Load, s.owner.Name, s.log)
	if s.metrics == nil {
		s.metrics = NewMetrics(nil)
	}
	s.cfg.Store(o.Config)
	o.StartTimeout = startTimeout(o.StartTimeout, o.Config)
	defer func() {
		if err != nil {
			s.giveUp()
		}
	}()
	starting, cancel := context.WithTimeout(ctx, o.StartTimeout)
	defer cancel()
	if err := s.connect(starting); err != nil {
		return nil, err
	}
	if err := s.open(starting, o.OnRegistered); err != nil {
		return nil, elsewhere(s.connections.js, err)
	}
	if err := reach(starting, s.connections.js, o.Config); err != nil {
		return nil, err
	}
	if err := s.checkSinks(starting, o.Config); err != nil {
		return nil, connect.Explain(err)
	}
	if err := s.instance.Start(starting, events(o.Config), subscriptions(o.Config)); err != nil {
		return nil, err
	}
	if err := s.serveControl(); err != nil {
		return nil, err
	}
	// What is refused so far is found before anything is claimed: a start that fails must not take
	// subscriptions from an instance that works.
	if err := s.connections.permitted(); err != nil {
		return nil, err
	}
	if err := s.instance.Begin(starting); err != nil {
		return nil, err
	}
	s.running.Store(true)
	s.work.Go(func() { s.warnOfBridges(o.Config) })
	s.work.Go(s.retireRespelled)
	s.connections.regain(s.instance.Followed(), &s.work)
	return s, s.awaitFirstRegistration(starting)
}

// giveUp ends a start that failed, and releases what it claimed.
func (s *Service) giveUp() {
	if !s.running.Load() {
		s.close()
		return
	}
	const releaseTimeout = 5 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	s.Stop(ctx)
}

// tellFirst closes s.registered at the first registration.
func (s *Service) tellFirst(next func(string, registration.Cause, int, time.Time)) func(string, registration.Cause, int, time.Time) {
	var once sync.Once
	return func(store string, cause registration.Cause, n int, at time.Time) {
		once.Do(func() { close(s.registered) })
		if next != nil {
			next(store, cause, n, at)
		}
	}
}

// awaitFirstRegistration waits for the first registration, because a missing permission shows when it is
// used. Where none comes within patience, the reason is another one: the instance runs, and goes on trying.
func (s *Service) awaitFirstRegistration(ctx context.Context) error {
	const (
		patience = 2 * time.Second
		look     = 10 * time.Millisecond
	)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for first := subscriptions(s.cfg.Load()); len(first) > 0; {
		if err := s.connections.permitted(); err != nil {
			return err
		}
		select {
		case <-s.registered:
			// What is asked of the proxies now is answered after they said that they are registered.
			_, _ = s.instance.Supervisor().Statuses(ctx, control.Request{Store: first[0].Store, Name: first[0].Name})
			return s.connections.permitted()
		case <-time.After(look):
		case <-ctx.Done():
			return s.connections.permitted()
		}
	}
	return s.connections.permitted()
}

func (s *Service) connect(ctx context.Context) error {
	if err := s.connections.open(ctx, s.cfg.Load(), s.owner.Name, s.reconnected); err != nil {
		return err
	}
	s.outlet = s.connections.outlet()
	nc := s.connections.main
	s.log.Info("connected to NATS", "url", nc.ConnectedUrlRedacted(), "server", nc.ConnectedServerName(), "instance", s.owner.Name, "id", s.owner.ID)
	return nil
}

// dial connects to what the configuration says, waiting for a server that is not there yet.
func dial(ctx context.Context, cfg *config.Config, o connect.Options) (*nats.Conn, jetstream.JetStream, error) {
	nc, js, err := connect.Await(ctx, dialOptions(cfg, o))
	if err != nil {
		return nil, nil, err
	}
	if err := connect.CheckServer(nc); err != nil {
		nc.Close()
		return nil, nil, err
	}
	return nc, js, nil
}

// startTimeout is how long a start waits for NATS and JetStream: as it is told, or as is configured.
func startTimeout(told time.Duration, c *config.Config) time.Duration {
	const unlessConfigured = 30 * time.Second
	return cmp.Or(told, c.NATS.ConnectTimeout, unlessConfigured)
}

// dialOptions are o with the server, the user and the certificates that the configuration names.
func dialOptions(cfg *config.Config, o connect.Options) connect.Options {
	c := cfg.NATS
	o.URL, o.Context, o.Credentials = c.URL, c.Context, c.Credentials
	o.User, o.Password, o.Token, o.NKey, o.UserJWT, o.UserSeed = c.User, c.Password, c.Token, c.NKey, c.UserJWT, c.UserSeed
	o.Domain, o.APIPrefix, o.InboxPrefix = c.Domain, c.APIPrefix, c.InboxPrefix
	o.TLSCA, o.TLSCert, o.TLSKey, o.TLSHandshakeFirst = c.TLS.CA, c.TLS.Cert, c.TLS.Key, c.TLS.HandshakeFirst
	return o
}

// open opens the buckets, and makes the instance.
func (s *Service) open(ctx context.Context, onRegistered func(string, registration.Cause, int, time.Time)) (err error) {
	c := s.cfg.Load()
	s.sinks = newSinks(s.outlet, c)
	s.instance, err = instance.Open(ctx, instance.Options{
		JetStream: s.connections.js, Owner: s.owner, Version: s.version, Weight: c.Instance.Weight, TTL: c.Instance.SessionTTL,
		Registry: bucketConfig(c), Parked: parkedConfig(c), Settings: settings(c), Sink: s.sinks.of, Publisher: s.outlet.Publisher, Memory: c.Delivery.Memory,
		Unfit: s.unfit, Permitted: s.connections.permitted, Hindered: s.connections.hindered, OnRegistered: s.tellFirst(onRegistered),
		Logger: s.log, Metrics: *s.metrics,
	})
	return err
}

// unfit is what is wrong with the other buckets and the parked stream, as far as they can be looked at.
// Where they can't, their opening tells.
func (s *Service) unfit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var all []error
	look := func(_ bool, err error) {
		if instance.IsUnfit(err) {
			all = append(all, err)
		}
	}
	look(kv.Inspect(ctx, s.connections.js, clusterConfig(s.cfg.Load())))
	if c := s.cfg.Load(); c.Emitter.Enabled {
		look(kv.Inspect(ctx, s.connections.js, checkpointConfig(c)))
	}
	look(deadletter.Inspect(ctx, s.connections.js))
	return errors.Join(all...)
}
