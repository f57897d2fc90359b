package election

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// LeaderRecord is a leader's lease, as it stands in the bucket under LeaderKey.
type LeaderRecord struct {
	Store  string `json:"store"`
	Leader string `json:"leader"` // the candidate's name
	ID     string `json:"id"`     // of its run: registration.Owner.ID
	Host   string `json:"host"`
	PID    int    `json:"pid"`
	Term   uint64 `json:"term"`
	// Epoch is the leader's to use (Lease.SetEpoch). A new leader carries it over until it sets another.
	Epoch string `json:"epoch"`
	// Witness is the leader's to use likewise (Lease.SetEpoch, Lease.Remember): what proves that the epoch is of what is there.
	Witness   string    `json:"witness,omitempty"`
	Since     time.Time `json:"since"`  // when the leader began to contend, by its clock: it marks the leadership, no rule counts with it
	TTLMillis int64     `json:"ttl_ms"` // how long the lease outlives its last renewal
}

// leaderPrefix begins the keys of leases.
const leaderPrefix = "leader."

// LeaderKey is the key of a store's lease.
func LeaderKey(store string) string { return leaderPrefix + subscription.EncodeToken(store) }

// ErrBadLease is returned for a value that is no lease, or not that of its store.
var ErrBadLease = errors.New("malformed lease")

func decodeLeader(store string, data []byte) (LeaderRecord, error) {
	var r LeaderRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return LeaderRecord{}, fmt.Errorf("%w of store %s: %w", ErrBadLease, store, err)
	}
	if r.ID == "" || r.Store != store || r.Term > event.MaxTerm {
		return LeaderRecord{}, fmt.Errorf("%w of store %s: id %q, store %q, term %d", ErrBadLease, store, r.ID, r.Store, r.Term)
	}
	return r, nil
}

// same reports whether two records are of one leadership.
func (r *LeaderRecord) same(other *LeaderRecord) bool {
	return r.ID == other.ID && r.Since.Equal(other.Since)
}

// ttl is how long the lease outlives a renewal; ours where the record does not say.
func (r *LeaderRecord) ttl(ours time.Duration) time.Duration {
	return lease.BoundedTTL(r.TTLMillis, ours)
}

// Vacancy says why there was no leader when one was elected.
type Vacancy string

// The vacancies.
const (
	VacantFirst    Vacancy = "first"    // none was known before
	VacantResigned Vacancy = "resigned" // the lease was deleted, by its holder or by hand
	VacantExpired  Vacancy = "expired"  // the lease was not renewed
	VacantLost     Vacancy = "lost"     // the bucket, or what was in it, is gone
)

// Lease is a leadership. Its methods may be called from any goroutine, also after it ended.
type Lease struct {
	held     atomic.Pointer[LeaderRecord]
	witness  atomic.Pointer[string] // to be written with the next renewal; nil: as it is
	previous LeaderRecord
	vacancy  Vacancy
	asks     chan<- *ask
	ended    chan struct{} // closed when the lease is held no more
}

// Term is the leadership's term. It is above that of every leader before, and may rise: after RaiseTerm, and where the
// lease had vanished and was written again.
func (l *Lease) Term() uint64 { return l.held.Load().Term }

// Epoch is what the last SetEpoch set, this leader's or one's before.
func (l *Lease) Epoch() string { return l.held.Load().Epoch }

// Witness is what the last SetEpoch or Remember that was written set, this leader's or one's before.
func (l *Lease) Witness() string { return l.held.Load().Witness }

// Previous is the leader before, and why it no longer was one. The record is zero where none is known.
func (l *Lease) Previous() (LeaderRecord, Vacancy) { return l.previous, l.vacancy }

// SetEpoch writes the epoch to the lease, and the witness of it.
func (l *Lease) SetEpoch(ctx context.Context, epoch, witness string) error {
	return l.renew(ctx, "set epoch", update{epoch: &epoch, witness: witness})
}

// Remember has the witness written with the next renewal.
func (l *Lease) Remember(witness string) { l.witness.Store(&witness) }

// Verify renews the lease now. Nil says that it was held at some time during the call. Failing renewals are
// tried again until ctx ends; ErrDeposed says that the lease is lost.
func (l *Lease) Verify(ctx context.Context) error {
	return l.renew(ctx, "verify lease", update{})
}

// RaiseTerm renews the lease with a term above the one given: it is for when a higher term has been seen although this is
// the valid lease, since the bucket was lost.
func (l *Lease) RaiseTerm(ctx context.Context, over uint64) error {
	if over >= event.MaxTerm {
		return fmt.Errorf("raise term over %d: %w", over, ErrLastTerm)
	}
	return l.renew(ctx, "raise term", update{term: over})
}

func (l *Lease) renew(ctx context.Context, what string, u update) error {
	a := &ask{update: u, lease: l, done: make(chan error, 1)}
	select {
	case l.asks <- a:
	case <-l.ended:
		return fmt.Errorf("%s: %w", what, ErrDeposed)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	select {
	case err := <-a.done:
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
}
