package service

import (
	"github.com/exesdb/subproxy/internal/config"
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
	s.log.Info("reconnected to NATS", "url", s.connections.main.ConnectedUrlRedacted(), "server", s.connections.main.ConnectedServerName())
	if s.running.Load() { // else there is no instance yet, or it knows nothing that it could have missed
		s.instance.Reconnected()
	}
}
