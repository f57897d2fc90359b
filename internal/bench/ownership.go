package bench

import (
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

// ownership is who holds which subscription, as the registry's feed shows it, against who should. Times are
// the server's, of when it stored an entry.
type ownership struct {
	bucket *kv.Bucket
	prefix string            // of the store's keys
	keyOf  map[string]string // by the subscription's name

	mu     sync.Mutex
	held   map[string]owned  // by key; one that was never registered is not in it
	wanted map[string]string // by key: the name that should hold it
	astray int               // keys that another name holds, or nobody
	movement
}

type owned struct {
	owner registration.Owner // who holds it, or held it last
	freed time.Time          // when that was deleted; zero: it was not
	given time.Time          // when its owner said that it is left to another; zero: it did not
}

func (h *owned) name() string {
	if !h.freed.IsZero() {
		return ""
	}
	return h.owner.Name
}

// movement is what happened since a time.
type movement struct {
	moves int             // registrations by another run than had the subscription before
	gaps  []time.Duration // from when a subscription was left to another, or its record deleted, to the next registration
	first time.Time       // when something was moved first
	last  time.Time       // when something was moved or deleted last
}

func newOwnership(bucket *kv.Bucket, store string) *ownership {
	return &ownership{bucket: bucket, prefix: store + ".", keyOf: map[string]string{}, held: map[string]owned{}}
}

// Message implements feed.Handler.
func (h *ownership) Message(m feed.Message) {
	e := h.bucket.NewEntry(m.Subject, m.Sequence, m.Header, m.Data, m.Time)
	if !strings.HasPrefix(e.Key, h.prefix) {
		return
	}
	if e.Operation != kv.Put {
		h.free(e.Key, e.Time)
		return
	}
	if r, err := registration.Decode(e.Key, e.Data); err == nil {
		h.hold(e.Key, r.Owner, e.Time)
	}
}

// Level implements feed.Handler.
func (h *ownership) Level(uint64) {}

// Reset implements feed.Handler.
func (h *ownership) Reset(error) {}

func (h *ownership) hold(key string, owner registration.Owner, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.held[key]
	now := owned{owner: owner}
	left := was.given
	if left.IsZero() {
		left = was.freed
	}
	switch {
	case was.freed.IsZero() && was.owner == owner:
		return // it was registered again
	case !left.IsZero():
		h.gaps = append(h.gaps, max(at.Sub(left), 0))
	}
	if was.owner.ID != owner.ID {
		h.moves++
		if h.first.IsZero() {
			h.first = at
		}
	}
	h.set(key, was, now, at)
}

func (h *ownership) free(key string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was, known := h.held[key]
	if !known || !was.freed.IsZero() {
		return
	}
	h.set(key, was, owned{owner: was.owner, freed: at, given: was.given}, at)
}

// give notes what an instance says that it leaves to another.
func (h *ownership) give(m *nats.Msg) {
	var given status.HandedOver
	if json.Unmarshal(m.Data, &given) != nil || given.Type != status.HandedOverType {
		return // it is asked for, or of somebody else
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range given.Subscriptions {
		key := h.keyOf[s.Name]
		if was, known := h.held[key]; known && was.owner == given.From {
			was.given = given.Timestamp
			h.held[key] = was
		}
	}
}

func (h *ownership) set(key string, was, now owned, at time.Time) {
	want := h.wanted[key]
	if was.name() == want {
		h.astray++
	}
	if now.name() == want {
		h.astray--
	}
	h.held[key], h.last = now, at
}

// want says who should hold what from now on.
func (h *ownership) want(wanted map[string]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wanted, h.astray = wanted, 0
	for key, name := range wanted {
		if was := h.held[key]; was.name() != name {
			h.astray++
		}
	}
}

// off is how many subscriptions are not where they should be, and when something moved last.
func (h *ownership) off() (n int, last time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.astray, h.last
}

// collect returns what was moved since the last take.
func (h *ownership) collect() movement {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.movement
	h.movement = movement{last: h.last}
	return m
}

// ownerName is who holds a subscription; empty: nobody.
func (h *ownership) ownerName(key string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.held[key]
	return was.name()
}
