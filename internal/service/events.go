package service

import (
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/internal/instance"
	"github.com/exesdb/subproxy/pkg/cluster"
)

// events are the cluster events that the configuration names.
func events(c *config.Config) instance.Events {
	t := c.SubscriptionProxy
	e := instance.Events{
		Off: !t.EnableClusterEventSubscriptions, LeaderChangedSubject: t.LeaderChangedSubject, EmitterRestartedSubject: t.EmitterRestartedSubject,
		BridgeRegistry: c.Bridge.Registry,
	}
	for _, b := range c.Bridge.Streams {
		e.Bridge = append(e.Bridge, cluster.Bridged{Stream: b.Stream, Store: b.Store, Kind: cluster.Kind(b.Event)})
	}
	return e
}

func (s *Service) reconnected() {
	s.log.Info("reconnected to NATS", "url", s.nc.ConnectedUrlRedacted(), "server", s.nc.ConnectedServerName())
	if s.running.Load() { // else there is no instance yet, or it knows nothing that it could have missed
		s.instance.Reconnected()
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
