package election

import (
	"encoding/json"
	"errors"
	"fmt"
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
	// Witness is the leader's to use likewise (Lease.SetEpoch, Lease.Remember): it proves that the epoch is
	// of the history that the store's stream has.
	Witness string `json:"witness,omitempty"`
	// Since is when the leader began to contend, by its clock. It marks the leadership; no rule counts with
	// it.
	Since     time.Time `json:"since"`
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
		return LeaderRecord{}, fmt.Errorf(
			"%w of store %s: id %q, store %q, term %d", ErrBadLease, store, r.ID, r.Store, r.Term)
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
