package emitter

import (
	"strings"
	"sync"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// roster is a store's registrations, followed whether this emitter leads or not, so that a new leader
// begins with them. It is safe for concurrent use.
type roster struct {
	mu      sync.Mutex
	records map[string]record // by key
	leader  *leader           // nil while this emitter does not lead
	term    uint64            // highest in a record
}

func newRoster() *roster { return &roster{records: map[string]record{}} }

func (r *roster) attach(l *leader) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leader = l
	all := make([]record, 0, len(r.records))
	for _, record := range r.records {
		all = append(all, record)
	}
	l.inbox.registered(all...)
}

func (r *roster) detach() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leader = nil
}

func (r *roster) highestTerm() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.term
}

func (r *roster) entry(e record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.term = max(r.term, e.Term)
	if e.DeliverSubject == "" {
		delete(r.records, e.Key())
	} else {
		r.records[e.Key()] = e
	}
	if r.leader != nil {
		r.leader.inbox.registered(e)
	}
}

// void is for when the bucket is another: its revisions begin anew. Whoever holds a subscription registers
// it again.
func (r *roster) void() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.records)
	if l := r.leader; l != nil {
		l.inbox.tell(func(t *taken) {
			t.entries = nil // of the old bucket: their revisions would hide the new one's
			t.calls = append(t.calls, func() {
				for _, s := range l.subs.byKey {
					s.registration.revision = 0
				}
			})
		})
	}
}

// recordHandler is the Emitter as the handler of the feed of registrations.
type recordHandler Emitter

// Message implements feed.Handler.
func (h *recordHandler) Message(m feed.Message) {
	e := h.registrations.NewEntry(m.Subject, m.Sequence, m.Header, m.Data, m.Time)
	token, _, _ := strings.Cut(e.Key, ".")
	r := h.rosters[token]
	if r == nil {
		return
	}
	if e.Operation != kv.Put {
		s, err := subscription.ParseKey(e.Key)
		if err == nil {
			r.entry(record{registration.Registration{Subscription: s, Incarnation: e.Incarnation, Term: e.Term}, e.Revision})
		}
		return
	}
	found, err := registration.Decode(e.Key, e.Data)
	if err == nil && !event.ValidSubject(found.DeliverSubject) { // a record comes from anybody
		err = registration.ErrBadRecord
	}
	if err != nil {
		h.log.Warn("a registration can't be read and is passed over; the one before it stands", "key", e.Key, "revision", e.Revision, "error", err)
		return
	}
	r.entry(record{found, e.Revision})
}

// Level implements feed.Handler.
func (h *recordHandler) Level(uint64) {}

// Reset implements feed.Handler.
func (h *recordHandler) Reset(error) {
	for _, r := range h.rosters {
		r.void()
	}
}
