package cluster

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"

	"github.com/exesdb/subproxy/pkg/event"
)

// Kind is which of the two events it is.
type Kind string

// The kinds, which are also causes of a registration.
const (
	LeaderChanged    Kind = "leader_changed"
	EmitterRestarted Kind = "emitter_restarted"
)

// Default subjects of the two events.
const (
	LeaderChangedSubject    = "exesdb.cluster.leader_changed"
	EmitterRestartedSubject = "exesdb.emitter.restarted"
)

// Event is a cluster event as it was understood.
type Event struct {
	Kind  Kind
	ID    string // of the message, where it has one; an advisory and its announcement share it
	Store string // empty: every store

	Leader, PreviousLeader string
	Term                   uint64 // 0: none given
	Reason                 string

	Emitter string
	Topic   string // narrows EmitterRestarted to the subscriptions it names; empty: all of them

	SeenAt    time.Time
	Malformed bool // the body could not be read, or not its store, and so it means every store
	BadTerm   bool // its term is no number from 1 to MaxAnnouncedTerm; the event counts, without a term
	Enveloped bool // it has the type of what subproxy announces
}

// MaxAnnouncedTerm is the highest term that an event may bring. Anybody can publish one: however high it
// is, leaders after it have as many terms left.
const MaxAnnouncedTerm = event.MaxTerm / 2

// Decode reads an event's body. It never fails: a body that can't be read is an event for every store.
// Unknown fields are skipped, numbers may stand in strings, and a field of the wrong kind counts as absent.
func Decode(kind Kind, body []byte, seenAt time.Time) Event {
	e := Event{Kind: kind, SeenAt: seenAt}
	if body = bytes.TrimSpace(body); len(body) == 0 {
		return e
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil || fields == nil {
		e.Malformed = true
		return e
	}
	e.ID, _ = text(fields["id"])
	e.Leader, _ = text(fields["leader"])
	e.PreviousLeader, _ = text(fields["previous_leader"])
	e.Reason, _ = text(fields["reason"])
	e.Emitter, _ = text(fields["emitter"])
	e.Topic, _ = text(fields["topic"])
	e.Term, e.BadTerm = readTerm(fields["term"])
	messageType, _ := text(fields["type"])
	e.Enveloped = messageType == LeaderChangedType || messageType == EmitterRestartedType
	var ok bool
	if e.Store, ok = text(fields["store"]); !ok {
		e.Malformed = true
	}
	return e
}

// readTerm reads a term; absent, null, an empty string and 0 are none.
func readTerm(raw json.RawMessage) (term uint64, bad bool) {
	number, ok := text(raw)
	if ok && number == "" {
		return 0, false
	}
	term, err := strconv.ParseUint(number, 10, 64)
	if err != nil || term > MaxAnnouncedTerm {
		return 0, true
	}
	return term, false
}

// text reads a string or a number; absent and null are the empty string.
func text(raw json.RawMessage) (value string, ok bool) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", true
	}
	if err := json.Unmarshal(raw, &value); err == nil {
		return value, true
	}
	var number json.Number
	if err := json.Unmarshal(raw, &number); err == nil {
		return number.String(), true
	}
	return "", false
}

// message is an event as it is sent: every field the contract names, and the envelope's.
type message struct {
	Type      string    `json:"type"`
	ID        string    `json:"id"`
	Timestamp time.Time `json:"timestamp"`
	Store     string    `json:"store,omitempty"`

	Leader         string `json:"leader,omitempty"`
	PreviousLeader string `json:"previous_leader,omitempty"`
	Term           uint64 `json:"term,omitempty"`
	Reason         string `json:"reason,omitempty"`

	Emitter string `json:"emitter,omitempty"`
	Topic   string `json:"topic,omitempty"`
}

// Message types of the two events.
const (
	LeaderChangedType    = "io.exesdb.cluster.v1.leader_changed"
	EmitterRestartedType = "io.exesdb.cluster.v1.emitter_restarted"
)

// Encode writes the event as it is sent.
func (e Event) Encode() ([]byte, error) {
	messageType := LeaderChangedType
	if e.Kind == EmitterRestarted {
		messageType = EmitterRestartedType
	}
	return json.Marshal(message{
		Type: messageType, ID: e.ID, Timestamp: e.SeenAt.UTC(), Store: e.Store,
		Leader: e.Leader, PreviousLeader: e.PreviousLeader, Term: e.Term, Reason: e.Reason,
		Emitter: e.Emitter, Topic: e.Topic,
	})
}
