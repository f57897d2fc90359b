package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/pkg/election"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/membership"
	"github.com/exesdb/subproxy/pkg/payload"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

func (s *Service) clusterConfig() kv.Config {
	c := s.bucketConfig()
	c.Kind, c.Bucket, c.Records = kv.Cluster, "", 0
	return c
}

// join opens this instance's session, and follows those of the others until the instance ends. It waits, for a while, until the
// others can see the session: from then on this run's registrations live, and those of the name's last run do not.
func (s *Service) join(ctx context.Context) error {
	follower, err := lease.NewFollower(s.js, s.cluster, s.log)
	if err != nil {
		return err
	}
	s.members, err = membership.New(membership.Config{Follower: follower, Logger: s.log, OnChange: s.share})
	if err != nil {
		return err
	}
	if err := errors.Join(election.Watch(follower, s.leads), s.watchAlerts(follower)); err != nil {
		return err
	}
	for subject, handle := range map[string]nats.MsgHandler{
		status.HandOverSubject(s.owner.ID): s.handOver, status.SupersededSubject(s.owner.Name): s.supersedes,
	} {
		if _, err := s.nc.Subscribe(subject, handle); err != nil {
			return fmt.Errorf("subscribe to %s: %w", subject, err)
		}
	}
	instance := s.cfg.Load().Instance
	session, err := membership.OpenSession(membership.SessionConfig{
		Owner: s.owner, Follower: follower, Version: s.version, Weight: instance.Weight, TTL: instance.SessionTTL,
		Stores: s.stores(s.cfg.Load()), Logger: s.log,
		OnSuperseded: func(by membership.Member) { s.supervisor.Retire(by.Owner()) },
		Ensure:       s.ensureCluster,
	})
	if err != nil {
		return fmt.Errorf("open the instance's session: %w", err)
	}
	s.serving.Lock()
	s.session = session
	s.serving.Unlock()
	s.work.Go(func() {
		if err := follower.Run(s.followed); err != nil {
			s.log.Error("sessions are no longer followed", "error", err)
		}
	})
	s.work.Go(func() { _ = s.members.Run(s.followed) }) // it returns nil
	s.work.Go(func() { s.alerts.run(s.followed) })
	return s.joined(ctx)
}

// leads hears that an emitter renewed its lease.
func (s *Service) leads(r election.LeaderRecord) {
	s.supervisor.Leads(r.Store, r.Leader, r.Term, time.Now())
}

// stores are those that the configuration has subscriptions of, as far as the server takes so many in a session's record.
func (s *Service) stores(c *config.Config) membership.Stores {
	const fields = 512
	all := stores(c)
	some := all.Within(payload.Room(s.nc.MaxPayload()) - fields - payload.Text(s.owner.Name) - payload.Text(s.owner.Host) - payload.Text(s.version))
	if some != all {
		s.log.Warn("the names of all stores are larger than the server takes in one message: the others take this instance to have every store",
			"max_payload", s.nc.MaxPayload())
	}
	return some
}

func stores(c *config.Config) membership.Stores {
	var ids []string
	for i := range c.Stores {
		if len(c.Stores[i].Subscriptions) > 0 {
			ids = append(ids, c.Stores[i].ID)
		}
	}
	return membership.NewStores(ids)
}

// joined waits until the session is open. Where it is not in time, and not because it is forbidden, the instance runs and goes
// on trying: the others take it for gone until then.
func (s *Service) joined(ctx context.Context) error {
	const (
		patience = 5 * time.Second
		look     = 50 * time.Millisecond
	)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		select {
		case <-s.session.Opened():
			s.gate.open(sessionOpen)
			return nil
		case <-s.session.Ended(): // superseded already
			return nil
		case <-time.After(look):
			if err := s.permitted(); err != nil {
				return err
			}
		case <-ctx.Done():
			s.log.Warn("the instance's session could not be opened yet; it is tried on")
			return s.permitted()
		}
	}
}

// ensureCluster opens the bucket of sessions again after it was found gone.
func (s *Service) ensureCluster(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := s.cluster.Ensure(ctx, s.clusterConfig())
	return err
}

// share tells the proxies who there is to share with.
func (s *Service) share(v *membership.View) {
	var members []placement.Member
	for i := range v.Peers {
		// This instance counts for itself from its first session on; the others wait whether more come with it.
		if p := &v.Peers[i]; p.Eligible || p.Alive && p.ID == s.owner.ID {
			members = append(members, placement.Member{Name: p.Name, Weight: p.Weight, Draining: p.Draining, Has: p.Stores.Has})
		}
	}
	s.supervisor.Share(members, func(o registration.Owner) placement.Liveness {
		switch {
		case v.Alive(o):
			return placement.Alive
		case v.Knows(o):
			return placement.Gone
		default:
			return placement.Unknown
		}
	})
	for _, a := range s.alerts.others() {
		if a.Scope == "store" {
			s.inherit(a)
		}
	}
	s.gate.open(membersKnown)
}

// Members counts the instances that live, by what they are to do, and tells whether this one is known to the others.
func (s *Service) Members() (sharing, draining int, session bool) {
	view := s.members.Snapshot()
	for i := range view.Peers {
		switch p := &view.Peers[i]; {
		case p.Alive && p.Draining:
			draining++
		case p.Alive:
			sharing++
		}
	}
	return sharing, draining, view.Known && view.Alive(s.owner)
}

// handOver is asked by another instance for subscriptions, or given them.
func (s *Service) handOver(m *nats.Msg) {
	var kind status.Envelope
	err := json.Unmarshal(m.Data, &kind)
	switch {
	case err != nil:
	case kind.Type == status.HandedOverType:
		var given status.HandedOver
		if err = json.Unmarshal(m.Data, &given); err == nil {
			s.supervisor.HandedOver(given)
		}
	default:
		var asks status.HandOver
		if err = json.Unmarshal(m.Data, &asks); err == nil {
			s.supervisor.HandOver(asks)
		}
	}
	if err != nil {
		s.unreadable.Do(func() {
			s.log.Warn("what another instance asks or gives can't be read; others like it within a minute are passed over in silence", "subject", m.Subject, "error", err)
		})
	}
}

// superseded says that another run has this instance's name.
func (s *Service) superseded(by registration.Owner) {
	m := status.Superseded{Envelope: status.NewEnvelope(status.SupersededType, time.Now()), Owner: s.owner, By: by}
	data, err := json.Marshal(m)
	if err == nil {
		err = s.nc.Publish(status.SupersededSubject(s.owner.Name), data)
	}
	if err != nil {
		s.log.Debug("the run that took over can't be told", "error", err)
	}
}

// supersedes hears that a run of this instance's name lives that this one superseded.
func (s *Service) supersedes(m *nats.Msg) {
	var r status.Superseded
	if err := json.Unmarshal(m.Data, &r); err != nil || r.By.ID != s.owner.ID {
		return
	}
	s.log.Error("another process runs under this instance's name; it stands by since this one took over. If both are meant to run, give each its own instance.name",
		"name", s.owner.Name, "its_host", r.Owner.Host, "its_pid", r.Owner.PID, "its_id", r.Owner.ID)
}

// drain lets the others take what this instance holds, while it still serves it.
func (s *Service) drain(ctx context.Context) {
	if s.session == nil || !s.nc.IsConnected() {
		return
	}
	if _, open := s.session.Member(); !open {
		return // it never was
	}
	patience := 10 * time.Second // they go a part at a time
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline)/2) // what is left is released in the other half
	}
	draining, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.session.SetDraining(draining, true); err != nil {
		s.log.Debug("the others can't be told that this instance drains", "error", err)
		return
	}
	s.supervisor.Drain(draining)
}

// leave gives the session back, once everything is released.
func (s *Service) leave(ctx context.Context) {
	if s.session == nil {
		return
	}
	if err := s.session.Close(ctx); err != nil {
		s.log.Debug("close the session", "error", err)
	}
}
