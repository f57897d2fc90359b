package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"github.com/exesdb/subproxy/pkg/election"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/membership"
	"github.com/exesdb/subproxy/pkg/payload"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// sessions is the bucket of sessions, as an instance follows it, and the instance's own session in it.
type sessions struct {
	*Instance
	bucket     *kv.Bucket
	members    *membership.Membership
	unreadable rate.Sometimes // told of what other instances send

	mu      sync.Mutex // guards those below against requests that come while the session is opened
	session *membership.Session
	stores  membership.Stores // of this instance's subscriptions
}

func (s *sessions) init(i *Instance) { s.Instance, s.unreadable.Interval = i, time.Minute }

func (s *sessions) config() kv.Config {
	c := s.o.Registry
	c.Kind, c.Bucket, c.Records = kv.Cluster, "", 0
	return c
}

// join opens this instance's session, and follows those of the others until the instance ends. It waits,
// for a while, until the others can see the session: from then on this run's registrations live, and those
// of the name's last run do not.
func (s *sessions) join(ctx context.Context) error {
	follower, err := lease.NewFollower(s.o.JetStream, s.bucket, s.log)
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
		status.HandOverSubject(s.o.Owner.ID): s.handOver, status.SupersededSubject(s.o.Owner.Name): s.onSuperseded,
	} {
		if _, err := s.nc.Subscribe(subject, handle); err != nil {
			return fmt.Errorf("subscribe to %s: %w", subject, err)
		}
	}
	session, err := membership.OpenSession(membership.SessionConfig{
		Owner: s.o.Owner, Follower: follower, Version: s.o.Version, Weight: s.o.Weight, TTL: s.o.TTL, Stores: s.stores, Logger: s.log,
		OnSuperseded: func(by membership.Member) { s.supervisor.Retire(by.Owner()) },
		Ensure: func(ctx context.Context) error {
			_, err := s.bucket.Ensure(ctx, s.config())
			return err
		},
	})
	if err != nil {
		return fmt.Errorf("open the instance's session: %w", err)
	}
	s.mu.Lock()
	s.session = session
	s.mu.Unlock()
	s.work.Go(func() {
		if err := follower.Run(s.followed); err != nil {
			s.log.Error("sessions are no longer followed", "error", err)
		}
	})
	s.work.Go(func() { _ = s.members.Run(s.followed) }) // it returns nil
	s.work.Go(func() { s.alerts.run(s.followed) })
	return s.awaitSession(ctx)
}

// leads hears that an emitter renewed its lease.
func (s *sessions) leads(r election.LeaderRecord) {
	s.supervisor.Leads(r.Store, r.Leader, r.Term, time.Now())
}

// storesOf are the stores of the subscriptions, as far as the server takes so many in a session's record.
func (s *sessions) storesOf(subs []subscription.Subscription) membership.Stores {
	const fields = 512
	var ids []string
	seen := map[string]bool{}
	for i := range subs {
		if id := subs[i].Store; !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	all := membership.NewStores(ids)
	o := &s.o
	some := all.Within(payload.Room(s.nc.MaxPayload()) - fields - payload.Text(o.Owner.Name) - payload.Text(o.Owner.Host) - payload.Text(o.Version))
	if some != all {
		s.log.Warn("the names of all stores are larger than the server takes in one message: the others take this instance to have every store",
			"max_payload", s.nc.MaxPayload())
	}
	return some
}

// tellStores tells the others of which stores this instance has subscriptions, where that changed.
func (s *sessions) tellStores(ctx context.Context, stores membership.Stores) {
	s.mu.Lock()
	changed, session := stores != s.stores, s.session
	s.stores = stores
	s.mu.Unlock()
	if !changed || session == nil {
		return
	}
	if err := session.SetStores(ctx, stores); err != nil {
		s.log.Warn("the others don't know yet of which stores this instance has subscriptions", "error", err) // it is tried on
	}
}

// awaitSession waits until the session is open. Where it is not in time, and not because it is forbidden,
// the instance runs and goes on trying: the others take it for gone until then.
func (s *sessions) awaitSession(ctx context.Context) error {
	const (
		patience = 5 * time.Second
		look     = 50 * time.Millisecond
	)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		select {
		case <-s.session.Opened():
			s.barrier.pass(sessionOpen)
			return nil
		case <-s.session.Ended(): // superseded already
			return nil
		case <-time.After(look):
			if err := s.o.Permitted(); err != nil {
				return err
			}
		case <-ctx.Done():
			s.log.Warn("the instance's session could not be opened yet; it is tried on")
			return s.o.Permitted()
		}
	}
}

// share tells the proxies who there is to share with.
func (s *sessions) share(v *membership.View) {
	var members []placement.Member
	for i := range v.Peers {
		// This instance counts for itself from its first session on; the others wait whether more come with
		// it.
		if p := &v.Peers[i]; p.Eligible || p.Alive && p.ID == s.o.Owner.ID {
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
	s.barrier.pass(membersKnown)
}

// Members counts the instances that live, by what they are to do, and tells whether this one is known to
// the others.
func (i *Instance) Members() (sharing, draining int, session bool) {
	view := i.sessions.members.Snapshot()
	for at := range view.Peers {
		switch p := &view.Peers[at]; {
		case p.Alive && p.Draining:
			draining++
		case p.Alive:
			sharing++
		}
	}
	return sharing, draining, view.Known && view.Alive(i.o.Owner)
}

// handOver is asked by another instance for subscriptions, or given them.
func (s *sessions) handOver(m *nats.Msg) {
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

// announceSuperseded says that another run has this instance's name.
func (i *Instance) announceSuperseded(by registration.Owner) {
	m := status.Superseded{Envelope: status.NewEnvelope(status.SupersededType, time.Now()), Owner: i.o.Owner, By: by}
	data, err := json.Marshal(m)
	if err == nil {
		err = i.nc.Publish(status.SupersededSubject(i.o.Owner.Name), data)
	}
	if err != nil {
		i.log.Debug("the run that took over can't be told", "error", err)
	}
}

// onSuperseded hears that a run of this instance's name lives that this one superseded.
func (s *sessions) onSuperseded(m *nats.Msg) {
	var r status.Superseded
	if err := json.Unmarshal(m.Data, &r); err != nil || r.By.ID != s.o.Owner.ID {
		return
	}
	s.log.Error("another process runs under this instance's name; it stands by since this one took over. If both are meant to run, give each its own instance.name",
		"name", s.o.Owner.Name, "its_host", r.Owner.Host, "its_pid", r.Owner.PID, "its_id", r.Owner.ID)
}

// drain lets the others take what this instance holds, while it still serves it.
func (s *sessions) drain(ctx context.Context) {
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
func (s *sessions) leave(ctx context.Context) {
	if s.session == nil {
		return
	}
	if err := s.session.Close(ctx); err != nil {
		s.log.Debug("close the session", "error", err)
	}
}

// Sessions is the bucket of sessions, of leaders' leases and of alerts that stand.
func (i *Instance) Sessions() *kv.Bucket { return i.sessions.bucket }

// View is who lives, as far as is known.
func (i *Instance) View() *membership.View { return i.sessions.members.Snapshot() }

// Session is this instance's own among the others; nil before Begin.
func (i *Instance) Session() *membership.Session {
	i.sessions.mu.Lock()
	defer i.sessions.mu.Unlock()
	return i.sessions.session
}
