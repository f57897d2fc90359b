package service

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/membership"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
)

// Options are what an instance is started with. Config is required.
type Options struct {
	Config  *config.Config
	Version string
	Logger  *slog.Logger
	Metrics *Metrics
	// OnRegistered is the supervisor's (see proxy.Options).
	OnRegistered func(store string, cause registration.Cause, n int, at time.Time)
	// StartTimeout bounds how long to wait for NATS and JetStream at the start; default 30 s.
	StartTimeout time.Duration
}

// Service is a running instance.
type Service struct {
	cfg     atomic.Pointer[config.Config]
	version string
	owner   registration.Owner
	log     *slog.Logger
	metrics *Metrics

	nc          *nats.Conn
	operators   *nats.Conn // their requests come here: on nc they would wait behind what a round of 100,000 has under way
	js          jetstream.JetStream
	sending     *nats.Conn // what publish sinks send goes here: nothing but that is reported of it, and nothing comes before the answer to a PING
	outlet      sink.Outlet
	denials     *sink.Denials // outlet's; there before the connection
	bucket      *kv.Bucket
	cluster     *kv.Bucket // sessions
	members     *membership.Membership
	session     *membership.Session
	gate        *gate
	feed        *feed.Feed
	supervisor  *proxy.Supervisor
	delivery    *delivery.Delivery
	sinks       *sinks
	deadLetters *deadLetters
	control     *responder
	alerts      *alertBook
	serving     sync.Mutex // guards session against requests that come while it is opened

	mu       sync.Mutex // guards listener
	listener *cluster.Listener

	// first is what the proxies were told last of the bucket's first revision, and settled whether they were told twice.
	// The feed's goroutine owns them.
	first   uint64
	settled bool

	running               atomic.Bool // everything is there that callbacks of the connection need
	ensuring              sync.Mutex
	remaking              atomic.Bool    // the bucket was found gone, and is being made anew
	gone                  atomic.Bool    // that could not be done, and the proxies were told; until it is there again
	stopping              atomic.Bool    // Stop was called
	unmade                rate.Sometimes // told that the bucket could not be made anew
	unreadable            rate.Sometimes // told of what other instances send
	unanswered            rate.Sometimes // told that an answer could not be sent
	violations            *violations
	hears, operatorsHears *hearing   // of nc and of operators
	denied                chan error // permission violations while starting
	// registered is closed at the first registration.
	registered chan struct{}
	followed   context.Context // ends with the feed
	cancel     context.CancelFunc
	work       sync.WaitGroup
}

// Ready reports whether NATS is connected and every subscription's first registration was tried; else why not.
func (s *Service) Ready(ctx context.Context) error {
	switch {
	case !s.Connected():
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
func (s *Service) Owner() registration.Owner { return s.owner }

// URL is what the instance was told to connect to.
func (s *Service) URL() string { return s.cfg.Load().NATS.URL }

// FeedStats are the feed's counters.
func (s *Service) FeedStats() feed.Stats { return s.feed.Stats() }

// Queued is how many bytes of events wait for their sinks.
func (s *Service) Queued() int64 { return s.delivery.Queued() }

// Connected reports whether NATS is connected, and operators can ask.
func (s *Service) Connected() bool { return s.nc.IsConnected() && s.operators.IsConnected() }

// Messages are how many messages the instance's connections got and sent so far.
func (s *Service) Messages() (in, out uint64) {
	for _, nc := range s.connections() {
		stats := nc.Stats()
		in, out = in+stats.InMsgs, out+stats.OutMsgs
	}
	return in, out
}

func (s *Service) connections() (all []*nats.Conn) {
	for _, nc := range []*nats.Conn{s.nc, s.operators, s.sending} {
		if nc != nil {
			all = append(all, nc)
		}
	}
	return all
}

// Stop drains and releases: the others take over what they know, every registration that is left is deleted, the session is
// given back and the connection drained. When ctx ends first it stops where it is.
func (s *Service) Stop(ctx context.Context) {
	s.stopping.Store(true)
	s.stopListening()
	s.control.stop()
	s.drain(ctx)
	s.supervisor.Stop(ctx)
	s.alerts.finish(ctx)
	s.leave(ctx)
	for _, nc := range s.connections() {
		if !nc.IsConnected() {
			continue // it would wait for a connection
		}
		if err := nc.FlushWithContext(ctx); err != nil {
			s.log.Debug("flush on stop", "error", err)
		}
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
	if s.control != nil {
		s.control.close()
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if s.supervisor != nil {
		s.supervisor.Stop(ended)
	}
	s.leave(ended)
	if s.cancel != nil {
		s.cancel()
	}
	s.work.Wait()
	if s.delivery != nil {
		s.delivery.Stop()
	}
	for _, nc := range s.connections() {
		nc.Close()
	}
}
