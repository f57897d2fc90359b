package instance

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

const (
	// writeAlertsWithin is how long alerts wait to be written down before they are published all the same.
	writeAlertsWithin = time.Second
	// alertsAgain is how soon what could not be written, or deleted, is tried again.
	alertsAgain = time.Second
)

// alertBook publishes alerts, and keeps those that stand in the cluster bucket, so that each is resolved
// also where the run that raised it was killed: an alert is written down before it is published, and
// deleted after its resolved was. The deletion's acknowledgement says that the server has the resolved too,
// which was sent before on the same connection; until it comes both are sent again. So a resolved can come
// twice, and none is missing.
type alertBook struct {
	bucket    *kv.Bucket
	owner     registration.Owner
	connected func() bool
	publish   func(status.Alert) error // an error: there is no connection, and it is to be tried again
	log       *slog.Logger
	wake      chan struct{} // holds one; never closed

	handling sync.Mutex // of handle

	mu        sync.Mutex
	queue     []status.Alert             // raised or resolved, and not handled yet
	raised    map[string]status.Standing // by key, what this run raised and has not resolved
	ending    map[string]status.Alert    // resolved, and not deleted yet
	seen      map[string]status.Standing // what the bucket has
	revisions map[string]uint64          // of each key last seen, markers included
}

func newAlertBook(bucket *kv.Bucket, owner registration.Owner, connected func() bool, publish func(status.Alert) error, log *slog.Logger) *alertBook {
	b := &alertBook{
		bucket: bucket, owner: owner, connected: connected, publish: publish, log: log, wake: make(chan struct{}, 1),
		raised: map[string]status.Standing{}, ending: map[string]status.Alert{},
	}
	b.voided()
	return b
}

// voided forgets what the bucket had: it is another one.
func (b *alertBook) voided() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen, b.revisions = map[string]status.Standing{}, map[string]uint64{}
}

// mine reports whether the bucket has this run's record under the key.
func (b *alertBook) mine(key string) bool { return b.seen[key].Owner.ID == b.owner.ID }

// Publish implements supervisor.Alerts.
func (b *alertBook) Publish(a status.Alert) {
	b.mu.Lock()
	b.queue = append(b.queue, a)
	b.mu.Unlock()
	b.signal()
}

func (b *alertBook) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Inherited implements supervisor.Alerts.
func (b *alertBook) Inherited(store, name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.seen) == 0 {
		return false
	}
	of := status.Standing{Scope: "proxy", Store: store, Name: name}
	s, stands := b.seen[of.Key()]
	return stands && s.Owner.ID != b.owner.ID
}

// entry takes what the feed shows, and returns the alert where another run raised it.
func (b *alertBook) entry(e kv.Entry) (s status.Standing, others bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.Revision < b.revisions[e.Key] {
		return s, false
	}
	b.revisions[e.Key] = e.Revision
	delete(b.seen, e.Key)
	if e.Operation != kv.Put {
		return s, false
	}
	s, err := status.DecodeStanding(e.Key, e.Data)
	if err != nil {
		b.log.Debug("a standing alert can't be read", "key", e.Key, "error", err)
		return s, false
	}
	b.seen[e.Key] = s
	if _, raised := b.raised[e.Key]; b.mine(e.Key) && !raised {
		b.signal() // it was written after all, and is to be deleted
	}
	return s, !b.mine(e.Key)
}

// others are the alerts that other runs raised, and that stand.
func (b *alertBook) others() (all []status.Standing) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.seen {
		if s.Owner.ID != b.owner.ID {
			all = append(all, s)
		}
	}
	return all
}

// run handles alerts until ctx ends.
func (b *alertBook) run(ctx context.Context) {
	for {
		again := b.handle(ctx)
		var later <-chan time.Time
		if again {
			later = time.After(alertsAgain)
		}
		select {
		case <-b.wake:
		case <-later:
		case <-ctx.Done():
			return
		}
	}
}

// handle writes down what was raised, publishes, and deletes what was resolved. Again says that something
// of it could not be done.
func (b *alertBook) handle(ctx context.Context) (again bool) {
	b.handling.Lock()
	defer b.handling.Unlock()
	if !b.connected() {
		return true
	}
	queue, puts := b.pending()
	again = b.write(ctx, puts)
	for i := range queue {
		if b.publish(queue[i]) != nil {
			b.putBack(queue[i:])
			return true
		}
	}
	return b.write(ctx, b.deletions()) || again
}

// putBack puts alerts that could not be published before those that came since.
func (b *alertBook) putBack(unsent []status.Alert) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = slices.Concat(unsent, b.queue)
}

// pending is what is to be published, and what is to be written down before.
func (b *alertBook) pending() (queue []status.Alert, puts []kv.Write) {
	b.mu.Lock()
	defer b.mu.Unlock()
	queued := map[string]bool{}
	for i := range b.queue {
		s := b.queue[i].Standing()
		queued[s.Key()] = true
	}
	for key, a := range b.ending {
		if !queued[key] { // else it is there itself, after what it resolves, or another alert follows it
			queue = append(queue, a) // once more
		}
	}
	queue = append(queue, b.queue...)
	for i := range b.queue {
		s := b.queue[i].Standing()
		key := s.Key()
		delete(b.raised, key)
		delete(b.ending, key)
		if b.queue[i].Level == status.Resolved {
			b.ending[key] = b.queue[i]
		} else {
			b.raised[key] = s
		}
	}
	b.queue = nil
	for key, s := range b.raised {
		if !b.mine(key) {
			data, _ := json.Marshal(s) // it always can be
			puts = append(puts, kv.Write{Key: key, Data: data, Revision: b.revisions[key]})
		}
	}
	return queue, puts
}

// deletions are of what was resolved, and of what this run wrote and did not hear that it had.
func (b *alertBook) deletions() (deletions []kv.Write) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key := range b.ending {
		if _, there := b.seen[key]; !there {
			delete(b.ending, key) // it never was written
		}
	}
	for key := range b.seen {
		_, raised := b.raised[key]
		if _, ends := b.ending[key]; ends || b.mine(key) && !raised {
			deletions = append(deletions, kv.Write{Key: key, Revision: b.revisions[key]})
		}
	}
	return deletions
}

// write performs the writes, and reports whether any has to be tried again.
func (b *alertBook) write(ctx context.Context, writes []kv.Write) (again bool) {
	if len(writes) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, writeAlertsWithin)
	defer cancel()
	for i, r := range b.bucket.Put(ctx, writes) {
		w := &writes[i]
		if errors.Is(r.Err, kv.ErrConflict) { // the feed has not shown yet what is there
			if e, there, err := b.bucket.GetFromLeader(ctx, w.Key); err == nil && there {
				b.entry(e)
			}
		}
		if r.Err != nil {
			b.log.Debug("a standing alert could not be written", "key", w.Key, "error", r.Err)
			again = true
			continue
		}
		b.wrote(w, r.Revision)
	}
	return again
}

func (b *alertBook) wrote(w *kv.Write, revision uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if revision > b.revisions[w.Key] {
		b.revisions[w.Key] = revision
		delete(b.seen, w.Key)
		if s, err := status.DecodeStanding(w.Key, w.Data); err == nil {
			b.seen[w.Key] = s
		}
	}
	if w.Data == nil {
		delete(b.ending, w.Key)
	}
}

// finish handles what is left, for a while and where there is a connection.
func (b *alertBook) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*writeAlertsWithin)
	defer cancel()
	for b.handle(ctx) && b.connected() && backoff.Sleep(ctx, alertsAgain/10) == nil {
	}
}

// watchAlerts follows which alerts stand, of all instances.
func (i *Instance) watchAlerts(follower *lease.Follower) error {
	return follower.WatchEntries(status.StandingPrefix, func(e kv.Entry) {
		if a, others := i.alerts.entry(e); others {
			i.inherit(a)
		}
	}, i.alerts.voided)
}

// inherit takes over an alert that another run raised. That of a subscription is resolved by whoever holds
// it and finds it well. One of a store is each instance's own, and taken over where that run is gone: by
// the next run of its name, or by all others that live.
func (i *Instance) inherit(a status.Standing) {
	former := a.Owner.Name == i.o.Owner.Name
	if a.Scope == "store" && !former && i.sessions.members.Snapshot().Alive(a.Owner) {
		return
	}
	if !i.supervisor.Inherit(a) && former {
		i.alerts.Publish(status.Alert{
			Envelope: status.NewEnvelope(status.AlertType, time.Now()), Level: status.Resolved, Scope: a.Scope, Store: a.Store, Name: a.Name,
			Health: breaker.Healthy, Message: "store " + a.Store + " is no longer configured here", Owner: a.Owner,
		})
	}
}

// publishAlert sends an alert. An error says that there is no connection.
func (i *Instance) publishAlert(a status.Alert) error {
	data, err := json.Marshal(a)
	if err == nil {
		err = i.nc.Publish(status.AlertSubject(a.Store, a.Name), data)
	}
	switch {
	case errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionReconnecting):
		return err
	case err != nil:
		i.log.Warn("an alert could not be published", "store", a.Store, "subscription", a.Name, "error", err)
		return nil
	}
	i.o.Metrics.Proxies.Published.WithLabelValues("alert").Inc()
	return nil
}
