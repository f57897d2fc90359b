package service

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/instance"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/supervisor"
)

// Options are what an instance is started with. Config is required.
type Options struct {
	Config  *config.Config
	Version string
	Logger  *slog.Logger
	Metrics *instance.Metrics
	// OnRegistered is the supervisor's (see supervisor.Options).
	OnRegistered func(store string, cause registration.Cause, n int, at time.Time)
	// StartTimeout bounds how long to wait for NATS and JetStream at the start; default nats.connect_timeout.
	StartTimeout time.Duration
}

// Service is a running instance.
type Service struct {
	cfg     atomic.Pointer[config.Config]
	version string
	owner   registration.Owner
	log     *slog.Logger
	metrics *instance.Metrics

	connections *connections
	outlet      sink.Outlet // of sinks
	sinks       *sinks
	instance    *instance.Instance
	control     *controlService

	running    atomic.Bool   // the instance has begun
	registered chan struct{} // closed at the first registration
	work       sync.WaitGroup
}

// Ready reports whether NATS is connected and every subscription's first registration was tried; else why
// not.
func (s *Service) Ready(ctx context.Context) error {
	switch {
	case !s.Connected():
		return errors.New("not connected to NATS")
	case s.instance.Supervisor().Retired():
		return errors.New("another run of this instance's name took over")
	case !s.instance.Supervisor().Ready(ctx):
		return errors.New("first registrations are under way")
	default:
		return nil
	}
}

// Instance describes this instance.
func (s *Service) Instance() control.Instance { return s.control.describe() }

// Supervisor is for what reads statuses: the HTTP server and tests.
func (s *Service) Supervisor() *supervisor.Supervisor { return s.instance.Supervisor() }

// Owner is this instance, as it stands in its registrations.
func (s *Service) Owner() registration.Owner { return s.owner }

// URL is what the instance was told to connect to.
func (s *Service) URL() string { return s.cfg.Load().NATS.URL }

// FeedStats are the feed's counters.
func (s *Service) FeedStats() feed.Stats { return s.instance.FeedStats() }

// Queued is how many bytes of events wait for their sinks.
func (s *Service) Queued() int64 { return s.instance.Delivery().Queued() }

// Connected reports whether NATS is connected, and operators can ask.
func (s *Service) Connected() bool { return s.connections.connected() }

// Messages are how many messages the instance's connections got and sent so far.
func (s *Service) Messages() (in, out uint64) { return s.connections.messages() }

// Members counts the instances that live, by what they are to do, and tells whether this one is known to
// the others.
func (s *Service) Members() (sharing, draining int, session bool) { return s.instance.Members() }

// Stop drains and releases: the others take over what they know, every registration that is left is
// deleted, the session is given back and the connection drained. When ctx ends first it stops where it is.
func (s *Service) Stop(ctx context.Context) {
	s.control.stop()
	s.instance.Stop(ctx)
	s.connections.flush(ctx)
	s.close()
}

// close ends what was begun, without releasing anything.
func (s *Service) close() {
	if s.control != nil {
		s.control.close()
	}
	if s.instance != nil {
		s.instance.Close()
	}
	s.work.Wait()
	s.connections.close()
}
