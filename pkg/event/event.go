package event

import (
	"errors"
	"fmt"
	"maps"
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
	SpecVersionHeader     = "ce-specversion"
	IDHeader              = "ce-id"
	TypeHeader            = "ce-type"    // the event type
	SubjectHeader         = "ce-subject" // the stream id
	SourceHeader          = "ce-source"
	TimeHeader            = "ce-time"
	DataContentTypeHeader = "ce-datacontenttype"
	ContentTypeHeader     = "content-type" // says the same, and that alone is read as well

	natsPrefix           = "Nats-"
	attributePrefix      = "ce-"
	contentTypeAttribute = "datacontenttype"
	specVersion          = "1.0"
)

// ErrNotAnEvent is returned for a message that has neither the headers nor the subject of an event, or
// whose headers or envelope can't be read as CloudEvents has them.
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
	Header   nats.Header // everything that came with it, attributes as EncodeValue has them; only Complete changes it
	Data     []byte

	contentType string // the header that has it, where it is not ContentTypeHeader
	complete    bool   // Header has all that Complete adds

	decoded bool
	json    any
	isJSON  bool
}

// StreamID implements subscription.Matchable.
func (e *Event) StreamID() string { return e.Stream }

// EventType implements subscription.Matchable.
func (e *Event) EventType() string { return e.Type }

// JSON implements subscription.Matchable. The data is decoded once, however many selectors look at it; so
// an event belongs to one goroutine while it is matched.
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

// FromMessage reads an event as it stands in a store's stream, in either content mode. Missing attributes
// are derived: type and stream from the subject, the id from store and sequence, the source from the store,
// the time from when it was stored. The headers are left as they are; where they have to be changed to be
// sent on (Unpack), the event has others.
func FromMessage(store, subject string, sequence uint64, stored time.Time, header nats.Header, data []byte) (Event, error) {
	f := formOf(header)
	if !f.plain {
		header = maps.Clone(header)
	}
	return read(store, subject, sequence, stored, header, data, f)
}

// FromStored is FromMessage for a message that nobody else has: it takes the headers over, and away from
// them those between the event's publisher, JetStream and its reader: what an append was conditional on,
// and what the server adds when it republishes or is asked for a message. Those of a hand-off go too, which
// an event brings with it that was forwarded from another store: they would be taken for those of the next
// hand-off.
func FromStored(store, subject string, sequence uint64, stored time.Time, header nats.Header, data []byte) (Event, error) {
	return read(store, subject, sequence, stored, header, data, stripped(header))
}

func read(store, subject string, sequence uint64, stored time.Time, header nats.Header, data []byte, f form) (Event, error) {
	e := Event{Store: store, Sequence: sequence, Header: header, Data: data}
	told := f.time
	if f.plain {
		e.ID, e.Type, e.Stream, e.Source, e.complete = f.id, f.typ, f.subject, f.source, f.complete()
	} else {
		var err error
		if e.Data, err = unpack(header, data, f); err != nil {
			return Event{}, err
		}
		e.ID, e.Type, e.Stream, e.Source = decoded(header, IDHeader), decoded(header, TypeHeader), decoded(header, SubjectHeader), decoded(header, SourceHeader)
		told = decoded(header, TimeHeader)
	}
	if f.contentType != ContentTypeHeader && len(header[f.contentType]) > 0 {
		e.contentType = f.contentType
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
	if told != "" {
		if t, err := time.Parse(time.RFC3339Nano, told); err == nil {
			e.Time = t
		}
	}
	return e, nil
}

// decoded is the value of an attribute's header that Unpack has seen; empty where it is missing.
func decoded(h nats.Header, key string) string {
	s := first(h, key)
	if value, err := DecodeValue(s); err == nil {
		return value
	}
	return s
}

// AttributeIn is an attribute as a message's headers have it, under its name in lower case; empty where it
// is missing.
func AttributeIn(h nats.Header, name string) string { return decoded(h, attributePrefix+name) }

func first(h nats.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// parseSubject reads <prefix><store>.<stream>.<type>. An event type with a dot that its publisher did not
// encode has tokens of its own.
func parseSubject(subject string) (stream, eventType string, err error) {
	rest, ok := strings.CutPrefix(subject, SubjectPrefix)
	_, rest, _ = strings.Cut(rest, ".")
	streamToken, rest, _ := strings.Cut(rest, ".")
	if !ok || rest == "" {
		return "", "", fmt.Errorf("%w: no ce-type and ce-subject, and subject %q is not %s<store>.<stream>.<type>", ErrNotAnEvent, subject, SubjectPrefix)
	}
	if stream, err = nameIn(streamToken); err != nil {
		return "", "", fmt.Errorf("%w: stream id: %w", ErrNotAnEvent, err)
	}
	for i := 0; ; i++ {
		token, after, more := strings.Cut(rest, ".")
		name, err := nameIn(token)
		if err != nil {
			return "", "", fmt.Errorf("%w: event type: %w", ErrNotAnEvent, err)
		}
		if i > 0 {
			eventType += "."
		}
		if eventType += name; !more {
			return stream, eventType, nil
		}
		rest = after
	}
}

// nameIn is the name that a token of a subject stands for. One with bytes that should be encoded, and no
// sign that any is, is the name itself: whoever published it does not know the rule, and JetStream stored
// it.
func nameIn(token string) (string, error) {
	if token != "" && !strings.Contains(token, "=") {
		return token, nil
	}
	return subscription.DecodeToken(token)
}

// Message writes the event as a message on a subject, in binary mode: its headers as they came, attributes
// encoded, and every CloudEvents attribute, derived ones too.
func (e *Event) Message(subject string) *nats.Msg {
	h := make(nats.Header, len(e.Header)+8)
	for k, v := range e.Header {
		h[k] = v
	}
	c, f := *e, formOf(h)
	if c.contentType = ""; f.contentType != ContentTypeHeader {
		c.contentType = f.contentType
	}
	// What is no event's, such as an escape that is not UTF-8, stays as the caller has it.
	if data, err := unpack(h, e.Data, f); err == nil {
		c.Data = data
	}
	c.completeHeader(h)
	return &nats.Msg{Subject: subject, Header: h, Data: c.Data}
}

// Complete adds the CloudEvents attributes that are missing to the event's own headers, and returns these.
func (e *Event) Complete() nats.Header {
	if e.Header == nil {
		e.Header = nats.Header{}
	} else if e.complete {
		return e.Header
	}
	e.completeHeader(e.Header)
	return e.Header
}

func (e *Event) completeHeader(h nats.Header) {
	add := func(name, value string) {
		if first(h, name) == "" {
			h[name] = []string{EncodeValue(value)}
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
	e.sayContentType(h)
}

// sayContentType says it under both names, whichever there is; the attribute's counts. One that would make
// a receiver look for an envelope is left out of the other.
func (e *Event) sayContentType(h nats.Header) {
	attribute, name := h[DataContentTypeHeader], e.contentTypeHeader()
	switch header := h[name]; {
	case len(attribute) > 0 && attribute[0] != "":
		if len(header) > 0 && header[0] == attribute[0] {
			return
		}
		switch value := decoded(h, DataContentTypeHeader); {
		case isStructured(value):
			delete(h, name)
		case value == attribute[0]:
			h[name] = attribute
		default:
			h[name] = []string{value}
		}
	case len(header) == 0 || header[0] == "":
	case plainPrefix(header[0]) == len(header[0]):
		h[DataContentTypeHeader] = header
	default:
		h[DataContentTypeHeader] = []string{EncodeValue(header[0])}
	}
}

func (e *Event) contentTypeHeader() string {
	if e.contentType != "" {
		return e.contentType
	}
	return ContentTypeHeader
}

// Attribute returns an attribute by its CloudEvents name, extensions included; ok is false where there is
// none. The time is the event's own text: the same instant can be written in other ways.
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
	case "specversion":
		if value = decoded(e.Header, SpecVersionHeader); value == "" {
			value = specVersion
		}
	case "time":
		if value = decoded(e.Header, TimeHeader); value == "" {
			value = e.Time.UTC().Format(time.RFC3339Nano)
		}
	case contentTypeAttribute:
		if value = decoded(e.Header, DataContentTypeHeader); value == "" {
			value = first(e.Header, formOf(e.Header).contentType)
		}
	default:
		value = decoded(e.Header, attributePrefix+name)
	}
	return value, value != ""
}
