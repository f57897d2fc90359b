package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Member is an instance's session, as it stands in the bucket under MemberKey.
type Member struct {
	Name     string `json:"name"` // stable over restarts
	ID       string `json:"id"`   // of its run: registration.Owner.ID
	Host     string `json:"host"`
	PID      int    `json:"pid"`
	Version  string `json:"version"`
	Weight   int    `json:"weight"`   // of its share, from 1 to MaxWeight
	Draining bool   `json:"draining"` // it is to hold nothing
	// Stores are those that it has subscriptions of, and shares with the others that have them. None: it
	// may have any.
	Stores Stores `json:"stores,omitempty"`
	// Since is when the run began, by its own clock: it is for people, no rule counts with it.
	Since     time.Time `json:"since"`
	TTLMillis int64     `json:"ttl_ms"` // how long the session outlives its last renewal
	// Incarnation is higher for each run of the name: of two that live, the one with the higher is meant
	// to.
	Incarnation uint64 `json:"incarnation"`
}

// MaxWeight is the highest weight a member can have.
const MaxWeight = 1000

// ErrBadSession is returned for a value that is no session, or not that of its key.
var ErrBadSession = errors.New("malformed session")

// memberPrefix begins the keys of sessions.
const memberPrefix = "member."

// MemberKey is the key of an instance's session.
func MemberKey(name string) string { return memberPrefix + subscription.EncodeToken(name) }

// Owner is the member as it stands in its registrations.
func (m *Member) Owner() registration.Owner {
	return registration.Owner{Name: m.Name, ID: m.ID, Host: m.Host, PID: m.PID}
}

// DecodeMember reads a record found under key. Unknown fields are allowed. A weight that is missing or out
// of range is the nearest that is in it.
func DecodeMember(key string, data []byte) (Member, error) {
	var m Member
	if err := json.Unmarshal(data, &m); err != nil {
		return Member{}, fmt.Errorf("%w under %s: %w", ErrBadSession, key, err)
	}
	if m.ID == "" || m.Name == "" || MemberKey(m.Name) != key {
		return Member{}, fmt.Errorf("%w under %s: id %q, name %q", ErrBadSession, key, m.ID, m.Name)
	}
	m.Weight = min(max(m.Weight, 1), MaxWeight)
	return m, nil
}

// ttl is how long the session outlives a renewal; the default where the record does not say.
func (m *Member) ttl() time.Duration { return lease.BoundedTTL(m.TTLMillis, lease.DefaultTTL) }
