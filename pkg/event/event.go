package event

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/subscription"
)

// SubjectPrefix begins the subject of every event: <store>.<stream id>.<event type> follows.
const SubjectPrefix = "exesdb.events."

// Headers of the CloudEvents binding. Other ce- headers are extension attributes and pass through.
const (
	SpecVersionHeader = "ce-specversion"
	IDHeader          = "ce-id"
	TypeHeader        = "ce-type"    // the event type
	SubjectHeader     = "ce-subject" // the stream id
	SourceHeader      = "ce-source"
	TimeHeader        = "ce-time"
	ContentTypeHeader = "content-type"

	attributePrefix = "ce-"
	specVersion     = "1.0"
)

// ErrNotAnEvent is returned for a message that has neither the headers nor the subject of an event.
var ErrNotAnEvent = errors.New("not an event")

// Event is one event of a store.
type Event struct {
	Store    string
	Stream   string // stream id
	Type     string
	Sequence uint64 // the store's; 0 before it is stored
	ID       string
	Source   string
	Time     time.Time
	Header   nats.Header // everything that came with it; only Complete changes it
	Data     []byte

	decoded bool
	json    any
	isJSON  bool
}

// StreamID implements subscription.Matchable.
func (e *Event) StreamID() string { return e.Stream }

// EventType implements subscription.Matchable.
func (e *Event) EventType() string { return e.Type }

// JSON implements subscription.Matchable. The data is decoded once, however many selectors look at it; so an event
// belongs to one goroutine while it is matched.
func (e *Event) JSON() (value any, ok bool) {
	if !e.decoded {
		e.decoded = true
		e.json, e.isJSON = subscription.DecodeJSON(e.Data)
	}
	return e.json, e.isJSON
}

// Subject is where an event of the store is stored.
func Subject(store, stream, eventType string) string {
	return SubjectPrefix + subscription.EncodeToken(store) + "." + subscription.EncodeToken(stream) + "." + subscription.EncodeToken(eventType)
}

// StreamSubjects matches the subjects of all events of a stream id.
func StreamSubjects(store, stream string) string {
	return SubjectPrefix + subscription.EncodeToken(store) + "." + subscription.EncodeToken(stream) + ".*"
}

// FromMessage reads an event as it stands in a store's stream. Missing attributes are derived: type and stream from the
// subject, the id from store and sequence, the source from the store, the time from when it was stored.
func FromMessage(store, subject string, sequence uint64, stored time.Time, header nats.Header, data []byte) (Event, error) {
	e := Event{
		Store: store, Sequence: sequence, Header: header, Data: data,
		ID: first(header, IDHeader), Type: first(header, TypeHeader), Stream: first(header, SubjectHeader), Source: first(header, SourceHeader),
	}
	if e.Type == "" || e.Stream == "" {
		stream, eventType, err := parseSubject(subject)
		if err != nil {
			return Event{}, err
		}
		if e.Stream == "" {
			e.Stream = stream
		}
		if e.Type == "" {
			e.Type = eventType
		}
	}
	if e.ID == "" {
		e.ID = store + "/" + strconv.FormatUint(sequence, 10)
	}
	if e.Source == "" {
		e.Source = "exesdb/" + store
	}
	e.Time = stored
	if t, err := time.Parse(time.RFC3339Nano, first(header, TimeHeader)); err == nil {
		e.Time = t
	}
	return e, nil
}

func first(h nats.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func parseSubject(subject string) (stream, eventType string, err error) {
	rest, ok := strings.CutPrefix(subject, SubjectPrefix)
	tokens := strings.Split(rest, ".")
	if !ok || len(tokens) != 3 {
		return "", "", fmt.Errorf("%w: no ce-type and ce-subject, and subject %q is not %s<store>.<stream>.<type>", ErrNotAnEvent, subject, SubjectPrefix)
	}
	if stream, err = subscription.DecodeToken(tokens[1]); err != nil {
		return "", "", fmt.Errorf("%w: stream id: %w", ErrNotAnEvent, err)
	}
	if eventType, err = subscription.DecodeToken(tokens[2]); err != nil {
		return "", "", fmt.Errorf("%w: event type: %w", ErrNotAnEvent, err)
	}
	return stream, eventType, nil
}

// Message writes the event as a message on a subject: its headers as they came, and every CloudEvents attribute, derived
// ones too.
func (e *Event) Message(subject string) *nats.Msg {
	h := make(nats.Header, len(e.Header)+6)
	for k, v := range e.Header {
		h[k] = v
	}
	e.complete(h)
	return &nats.Msg{Subject: subject, Header: h, Data: e.Data}
}

// Complete adds the CloudEvents attributes that are missing to the event's own headers, and returns these.
func (e *Event) Complete() nats.Header {
	if e.Header == nil {
		e.Header = nats.Header{}
	}
	e.complete(e.Header)
	return e.Header
}

func (e *Event) complete(h nats.Header) {
	add := func(name, value string) {
		if first(h, name) == "" {
			h[name] = []string{value}
		}
	}
	add(SpecVersionHeader, specVersion)
	add(IDHeader, e.ID)
	add(TypeHeader, e.Type)
	add(SubjectHeader, e.Stream)
	add(SourceHeader, e.Source)
	if first(h, TimeHeader) == "" {
		h[TimeHeader] = []string{e.Time.UTC().Format(time.RFC3339Nano)}
	}
}

// StripNATS takes away the headers that are between the event's publisher, JetStream and its reader: what an append was
// conditional on, and what the server adds when it republishes or is asked for a message.
func StripNATS(h nats.Header) {
	for k := range h {
		if strings.HasPrefix(k, "Nats-") {
			delete(h, k)
		}
	}
}

// Attribute returns an attribute by its CloudEvents name, extensions included; ok is false where there is none.
func (e *Event) Attribute(name string) (value string, ok bool) {
	switch name {
	case "id":
		return e.ID, true
	case "type":
		return e.Type, true
	case "subject":
		return e.Stream, true
	case "source":
		return e.Source, true
	case "time":
		return e.Time.UTC().Format(time.RFC3339Nano), true
	case "datacontenttype":
		value = first(e.Header, ContentTypeHeader)
	default:
		value = first(e.Header, attributePrefix+name)
	}
	return value, value != ""
}
