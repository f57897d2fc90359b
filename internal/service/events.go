package service

import (
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
)

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
	s.metrics.cluster.Count(&e)
	s.supervisor.Tell(e.Store, proxy.Cluster{Cause: registration.Cause(e.Kind), Topic: e.Topic, Term: e.Term, Jumps: e.Enveloped, Leader: e.Leader, SeenAt: e.SeenAt})
}

// remakes is how often in a row the bucket is made anew, and remakeAgain the time between. A server that is not done with removing the old
// one may refuse to, or take the new one down with it. The feed's next look tells once more.
const (
	remakes     = 4
	remakeAgain = 250 * time.Millisecond
)

// deleted is told when the bucket's stream was deleted: by an advisory, which a server does not always send, or by the feed that does not
// find it. It makes it anew now, not when the next attempt finds out.
func (s *Service) deleted() {
	if !s.running.Load() || s.stopping.Load() || s.supervisor.Retired() || !s.remaking.CompareAndSwap(false, true) {
		return
	}
	s.work.Go(func() {
		defer s.remaking.Store(false)
		for range remakes {
			err := s.ensure(s.followed)
			if err == nil {
				return
			}
			s.unmade.Do(func() {
				s.log.Warn("the registry bucket is gone and could not be created anew yet; it is tried again", "bucket", s.bucket.Name(), "error", err)
			})
			if !s.gone.Swap(true) {
				s.supervisor.Void() // nothing is registered, which statuses are to say
			}
			if !sleep(s.followed, remakeAgain) || s.stopping.Load() || s.supervisor.Retired() {
				return
			}
		}
	})
}

func (s *Service) reconnected() {
	s.log.Info("reconnected to NATS", "url", s.nc.ConnectedUrlRedacted(), "server", s.nc.ConnectedServerName())
	if !s.running.Load() {
		return
	}
	s.feed.Poke()
	if s.cfg.Load().SubscriptionProxy.EnableClusterEventSubscriptions {
		s.supervisor.Tell("", proxy.Cluster{Cause: registration.Reconnected, SeenAt: time.Now()})
	}
}

// sinkError is natsError for what publish sinks send.
func (s *Service) sinkError(nc *nats.Conn, _ *nats.Subscription, err error) {
	raw, subject := err, ""
	var denied *connect.PermissionError
	if errors.As(err, &denied) {
		raw, subject = denied.Err, denied.Subject
	}
	s.outlet.Publisher.Report(raw, subject, err)
	s.violations.report("", err, time.Now())
}

func (s *Service) natsError(nc *nats.Conn, sub *nats.Subscription, err error) {
	s.hears.report(nc, err)
	s.refused(sub, err)
}

// operatorsError is natsError for the connection on which operators ask.
func (s *Service) operatorsError(nc *nats.Conn, sub *nats.Subscription, err error) {
	s.operatorsHears.report(nc, err)
	s.refused(sub, err)
}

// hindered is what the instance can't do for want of a permission; empty: nothing.
func (s *Service) hindered() string {
	return joinReasons(s.violations.hindering(time.Now()), s.hears.hindering(), s.operatorsHears.hindering())
}

func (s *Service) refused(sub *nats.Subscription, err error) {
	var refused *connect.PermissionError
	if errors.As(err, &refused) {
		s.denials.Report(refused.Subject, refused)
	}
	if refused != nil && !s.denials.Concern(refused.Subject) {
		select {
		case s.denied <- err:
		default:
		}
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	s.violations.report(subject, err, time.Now())
}
