package service

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// sinks are where subscriptions' events go, by configuration. One that many subscriptions share is made
// once.
type sinks struct {
	outlet sink.Outlet

	mu       sync.Mutex
	forwards map[subscription.Subscription]*config.Forward // as configured makes the key; nil: it says nothing
	made     map[sink.Config]sink.Sink
}

func newSinks(o sink.Outlet, c *config.Config) *sinks {
	s := &sinks{outlet: o}
	s.configure(c)
	return s
}

// configure takes over a configuration. What a subscription that is no longer in it still has in hand goes
// where it went: it would count as accepted wherever it went, and whoever has the subscription next would
// not get it. One with another selector is another subscription.
func (s *sinks) configure(c *config.Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.forwards
	s.forwards, s.made = map[subscription.Subscription]*config.Forward{}, map[sink.Config]sink.Sink{}
	for i := range c.Stores {
		for j := range c.Stores[i].Subscriptions {
			sub := &c.Stores[i].Subscriptions[j]
			s.forwards[configured(c.Stores[i].ID, sub)] = sub.Forward
		}
	}
	for was, forward := range before {
		if _, still := s.forwards[was]; !still {
			s.forwards[was] = forward
		}
	}
}

// configured is a subscription as its proxy has it, but for the start version, and what it does on a gap: a
// selector that is JSON as everybody writes it who means the same.
func configured(store string, s *config.Subscription) subscription.Subscription {
	return subscription.Subscription{Store: store, Type: subscription.Type(s.Type), Selector: s.Selector, Name: s.Name}.Canonical()
}

// of returns where a subscription's events go.
func (s *sinks) of(sub subscription.Subscription) (sink.Sink, sink.Config) {
	sub.StartVersion, sub.OnGap = 0, ""
	s.mu.Lock()
	defer s.mu.Unlock()
	c := sink.Config{Kind: sink.Publish, Subject: sink.DeliveredSubject(sub)}
	if f := s.forwards[sub]; f != nil {
		c = sinkConfig(f)
	}
	to := s.made[c]
	if to == nil {
		var err error
		if to, err = s.outlet.New(c); err != nil {
			return refusing{err}, c // what the configuration's check let through
		}
		s.made[c] = to
	}
	return to, c
}

func sinkConfig(f *config.Forward) sink.Config {
	return sink.Config{Kind: sink.Kind(f.Sink), Subject: f.Subject, Timeout: f.Timeout, MaxDeliver: f.MaxDeliver}
}

// refusing stands for a sink that could not be made.
type refusing struct{ err error }

func (r refusing) Deliver(context.Context, *sink.Event) error { return r.err }

// checkSinks finds at the start what the first event would find: a stream that is not there.
func (s *Service) checkSinks(ctx context.Context, c *config.Config) error {
	checked := map[sink.Config]bool{}
	for _, store := range c.Stores {
		for _, sub := range store.Subscriptions {
			if sub.Forward == nil || checked[sinkConfig(sub.Forward)] {
				continue
			}
			to := sinkConfig(sub.Forward)
			checked[to] = true
			if err := s.checkSink(ctx, to); err != nil {
				return fmt.Errorf("subscription %s/%s: %w", store.ID, sub.Name, err)
			}
		}
	}
	return nil
}

// checkSink waits for a JetStream that does not answer yet: it may be electing.
func (s *Service) checkSink(ctx context.Context, to sink.Config) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		target, err := s.outlet.Check(attempt, to)
		cancel()
		if err == nil || errors.Is(err, sink.ErrNoStream) || errors.Is(err, sink.ErrConfig) || errors.Is(err, sink.ErrUnfit) {
			if err == nil {
				s.warnOfWindow(target, to)
			}
			return err
		}
		if denied := s.connections.permitted(); denied != nil {
			return denied
		}
		s.log.Warn("JetStream is not ready yet", "error", connect.Explain(err))
		if backoff.Sleep(ctx, time.Second) != nil {
			return err
		}
	}
}

// warnOfWindow says where a stream forgets message ids before all that may be sent again was: an attempt
// takes the timeout, the next one may come after the longest wait, and it may be another instance's, which
// has the subscription when the session of the first has ended.
func (s *Service) warnOfWindow(target sink.Target, to sink.Config) {
	least := leastWindow(to.Timeout, s.cfg.Load().Instance.SessionTTL)
	if target.Window == 0 || target.Window >= least {
		return
	}
	s.log.Warn("a stream's duplicate window is shorter than what may pass until an event is sent again: it may be stored twice",
		"stream", target.Stream, "forward.subject", to.Subject, "window", target.Window, "least", least,
		"mend", fmt.Sprintf("nats stream edit %s --dupe-window=%v", target.Stream, least))
}

func leastWindow(timeout, sessionTTL time.Duration) time.Duration {
	if timeout == 0 {
		timeout = sink.DefaultTimeout
	}
	return timeout + delivery.LongestWait + sessionTTL + time.Second
}
