package instance

import (
	"errors"
	"time"

	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/supervisor"
)

// ErrStopping is returned where an instance that stops is to hear other events.
var ErrStopping = errors.New("the instance is stopping")

// Listen makes these the cluster events that are heard. The new listener is there before the old one goes,
// so that no event falls between them; one heard by both merges.
func (i *Instance) Listen(e Events) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stopping.Load() {
		return ErrStopping
	}
	listener, err := cluster.Listen(i.nc, i.listenTo(e))
	if err != nil {
		return err
	}
	if i.listener != nil {
		if err := i.listener.Close(); err != nil {
			i.log.Debug("stop listening", "error", err)
		}
	}
	i.listener, i.events = listener, e
	return nil
}

func (i *Instance) listenTo(e Events) cluster.Config {
	c := cluster.Config{Domain: i.records.domain, OnEvent: i.event, OnDeleted: i.records.deleted, Logger: i.log}
	if e.Off {
		return c
	}
	c.LeaderChangedSubject, c.EmitterRestartedSubject = e.LeaderChangedSubject, e.EmitterRestartedSubject
	if c.LeaderChangedSubject == "" {
		c.LeaderChangedSubject = cluster.LeaderChangedSubject
	}
	if c.EmitterRestartedSubject == "" {
		c.EmitterRestartedSubject = cluster.EmitterRestartedSubject
	}
	c.Deleted = i.records.bucket.Stream()
	if e.BridgeRegistry {
		c.Bridge = append(c.Bridge, cluster.Bridged{Stream: c.Deleted, Kind: cluster.LeaderChanged})
	}
	c.Bridge = append(c.Bridge, e.Bridge...)
	return c
}

func (i *Instance) stopListening() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.listener != nil {
		if err := i.listener.Close(); err != nil {
			i.log.Debug("stop listening", "error", err)
		}
		i.listener = nil
	}
}

func (i *Instance) event(e cluster.Event) {
	if i.o.Metrics.Cluster != nil {
		i.o.Metrics.Cluster.Count(&e)
	}
	i.supervisor.Tell(e.Store, supervisor.Cluster{Cause: registration.Cause(e.Kind), Topic: e.Topic, Term: e.Term, Jumps: e.Enveloped, Leader: e.Leader, SeenAt: e.SeenAt})
}

// Reconnected is to be called when the connection is back after it was lost: cluster events may have been
// missed.
func (i *Instance) Reconnected() {
	if !i.running.Load() {
		return
	}
	i.records.feed.Poke()
	i.mu.Lock()
	off := i.events.Off
	i.mu.Unlock()
	if !off {
		i.supervisor.Tell("", supervisor.Cluster{Cause: registration.Reconnected, SeenAt: time.Now()})
	}
}
