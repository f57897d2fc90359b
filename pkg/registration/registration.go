package registration

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/payload"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Cause says why a registration was made.
type Cause string

// Every cause, as it stands in records, statuses and metrics.
const (
	Initial          Cause = "initial"           // the proxy started
	LeaderChanged    Cause = "leader_changed"    // the store, or the bucket, has a new leader
	EmitterRestarted Cause = "emitter_restarted" // the store's emitters are new and know nobody
	Reconnected      Cause = "reconnected"       // the NATS connection came back: events may have been missed
	Lost             Cause = "lost"              // the record was deleted, expired or overwritten
	Takeover         Cause = "takeover"          // the owner before released it, or is dead
	Timer            Cause = "timer"             // nothing was heard for the interval
	Retry            Cause = "retry"             // the attempt before failed
	Manual           Cause = "manual"            // an operator asked
)

// Causes lists every cause, in the order of the documentation.
func Causes() []Cause {
	return []Cause{Initial, LeaderChanged, EmitterRestarted, Reconnected, Lost, Takeover, Timer, Retry, Manual}
}

// IsEvent reports whether the cause came to all proxies of a store at once, so that their attempts make a
// round: the next round waits for them.
func (c Cause) IsEvent() bool {
	return c == LeaderChanged || c == EmitterRestarted || c == Reconnected
}

// Owner is the instance that holds a registration.
type Owner struct {
	Name string `json:"name"` // stable over restarts
	ID   string `json:"id"`   // new at every start (NUID)
	Host string `json:"host"`
	PID  int    `json:"pid"`
}

// ownerFields is what an owner has in JSON beside its texts, in bytes, at the most.
const ownerFields = 80

// Size is how many bytes the owner has in JSON at the most.
func (o *Owner) Size() int {
	return ownerFields + payload.Text(o.Name) + payload.Text(o.ID) + payload.Text(o.Host)
}

// OwnerMatcher is what stands in every record of one owner and in no other: an instance id is a NUID,
// unique by construction, and stands in a record as owner.id only. An instance hears each of its own writes
// on the feed, 10,000 at a time, so it looks for that (kv.Entry.Contains) and decodes none of them.
type OwnerMatcher []byte

// Matcher makes the owner's matcher.
func (o Owner) Matcher() OwnerMatcher { return OwnerMatcher(`"id":"` + o.ID + `"`) }

// Registration is the record: who holds a subscription, and where its events go.
type Registration struct {
	subscription.Subscription
	Owner Owner `json:"owner"`
	// Incarnation is one higher each time another instance id takes the subscription, or its proxy is
	// restarted. Of two owners the one with the higher incarnation superseded the other; clocks don't come
	// into it.
	Incarnation    uint64 `json:"incarnation"`
	DeliverSubject string `json:"deliver_subject"`
	// Term is the highest leader term of the store that the owner knew; 0 where it knew none.
	Term         uint64    `json:"term"`
	Cause        Cause     `json:"cause"`
	RegisteredAt time.Time `json:"registered_at"` // UTC
	// HandedOver is where the owner before stopped, if that one left the subscription to this one: events
	// go on behind it. Only the first record of an owner says it.
	HandedOver Position `json:"handed_over,omitzero"`
}

// Position is the sequence of a store that a subscription is at, and the history of the store that the
// sequence is of.
type Position struct {
	Accepted uint64 `json:"accepted"` // store sequence of the event that it accepted last; 0: not known
	Epoch    string `json:"epoch"`    // the history of the store that the sequence is of, where an emitter told; else empty
}

// ErrBadRecord is returned for a value that is no registration, or not that of its key.
var ErrBadRecord = errors.New("malformed registration")

// Encode writes the record as it stands in the bucket.
func (r *Registration) Encode() ([]byte, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode registration %s: %w", r.Subscription, err)
	}
	return data, nil
}

// Decode reads a record found under key. Unknown fields are allowed, since newer writers may add some; a
// record whose subscription is not the key's, or that has no owner id, is ErrBadRecord. Names of fields are
// matched exactly, and none may stand there twice.
//
// Every instance and emitter decodes each record that another wrote, so that this is most of what a change
// of hands costs where many share: json v2 takes half the time of encoding/json, and less than half the
// memory (BenchmarkDecode).
func Decode(key string, data []byte) (Registration, error) {
	var r Registration
	if err := jsonv2.Unmarshal(data, &r); err != nil {
		return Registration{}, fmt.Errorf("%w under %s: %w", ErrBadRecord, key, err)
	}
	if r.Owner.ID == "" {
		return Registration{}, fmt.Errorf("%w under %s: no owner.id", ErrBadRecord, key)
	}
	if r.Term > event.MaxTerm {
		return Registration{}, fmt.Errorf("%w under %s: term %d is above the last one, %d", ErrBadRecord, key, r.Term, uint64(event.MaxTerm))
	}
	if r.Key() != key {
		return Registration{}, fmt.Errorf("%w under %s: it describes %s", ErrBadRecord, key, r.Key())
	}
	return r, nil
}
