package sink

import (
	"maps"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Names of the parking lot.
const (
	ParkedStream = "EXESDB_PARKED"
	ParkedPrefix = "exesdb.parked." // <store>.<subscription> follows, each as one token
)

// Headers of a parked event, beside its own, event.SequenceHeader, event.IncarnationHeader and event.SubscriptionHeader.
const (
	ParkedReasonHeader    = "Exesdb-Parked-Reason"    // one line, at most 512 bytes
	ParkedAttemptsHeader  = "Exesdb-Parked-Attempts"  // how often it was refused
	ParkedSinkHeader      = "Exesdb-Parked-Sink"      // the kind of sink that refused it
	ParkedSubjectHeader   = "Exesdb-Parked-Subject"   // where it was to go; absent for a handler
	ParkedAtHeader        = "Exesdb-Parked-At"        // RFC 3339, UTC
	ParkedTruncatedHeader = "Exesdb-Parked-Truncated" // "true" where data or headers had to be left out
)

const (
	parkedHeaders = "Exesdb-Parked-"
	natsHeaders   = "Nats-" // instructions to JetStream: none of the event's may be taken for the lot's
	longestReason = 512     // bytes
	oversized     = 4 * longestReason
)

// Parked is one event in the lot. What a message lacks that somebody put there by hand is empty.
type Parked struct {
	Sequence uint64 // in the lot
	Store    string
	// Subscription is the name of the one that refused it.
	Subscription  string
	StoreSequence uint64
	Incarnation   uint64
	Kind          Kind   // of the sink that refused it
	Subject       string // where it was to go
	Attempts      int
	Reason        string
	At            time.Time
	Truncated     bool        // data or headers are missing: it can't be replayed
	Header        nats.Header // the event's own, with Exesdb-Seq and Exesdb-Incarnation
	Data          []byte
}

// Config is the sink that it was to go to. The timeout is the default one.
func (p *Parked) Config() Config { return Config{Kind: p.Kind, Subject: p.Subject} }

// StreamID and Type are the event's, empty where its headers don't tell.
func (p *Parked) StreamID() string { return event.AttributeIn(p.Header, "subject") }
func (p *Parked) Type() string     { return event.AttributeIn(p.Header, "type") }

// EventID is the event's own id, empty where its headers don't tell.
func (p *Parked) EventID() string { return event.AttributeIn(p.Header, "id") }

// event is what is replayed. It is marked with no incarnation: it comes from none, after events that come after it, and a
// subscriber that refuses what is older than what it has seen must not refuse it.
func (p *Parked) event() *Event {
	header := maps.Clone(p.Header)
	delete(header, event.IncarnationHeader)
	return &Event{Store: p.Store, Subscription: p.Subscription, Key: p.Header.Get(event.SubscriptionHeader), Sequence: p.StoreSequence, Message: &nats.Msg{Header: header, Data: p.Data}}
}

func parkedSubject(store, name string) string {
	return ParkedPrefix + tokenOrStar(store) + "." + tokenOrStar(name)
}

func tokenOrStar(name string) string {
	if name == "" {
		return "*"
	}
	return subscription.EncodeToken(name)
}

// parkedMessage is the event as the lot stores it: headers and data as they came, and why it is there. The event's own
// headers stay as they are.
func parkedMessage(e *Event, c Config, reason string, attempts int, now time.Time) *nats.Msg {
	h := make(nats.Header, len(e.Message.Header)+9)
	for k, v := range e.Message.Header {
		if !ofParking(k) {
			h[k] = v
		}
	}
	h[ParkedReasonHeader] = []string{oneLine(reason)}
	h[ParkedAttemptsHeader] = []string{strconv.Itoa(attempts)}
	h[ParkedSinkHeader] = []string{string(c.Kind)}
	if c.Subject != "" {
		h[ParkedSubjectHeader] = []string{c.Subject}
	}
	h[ParkedAtHeader] = []string{now.UTC().Format(time.RFC3339Nano)}
	if e.Sequence > 0 { // a sender may give none
		h[event.SequenceHeader] = []string{strconv.FormatUint(e.Sequence, 10)}
	}
	h[event.IncarnationHeader] = []string{strconv.FormatUint(e.Incarnation, 10)}
	if e.Key != "" {
		h[event.SubscriptionHeader] = []string{e.Key}
	}
	return &nats.Msg{Subject: parkedSubject(e.Store, e.Subscription), Header: h, Data: e.Message.Data}
}

// essential are the event's headers that are kept where not all of them can be.
var essential = [...]string{event.IDHeader, event.TypeHeader, event.SubjectHeader, event.SourceHeader, event.TimeHeader, event.DataContentTypeHeader, event.ContentTypeHeader}

// truncated returns what may be kept of a message that can't be stored as it is, the largest first.
func truncated(m *nats.Msg) []*nats.Msg {
	marked, few := maps.Clone(m.Header), nats.Header{}
	marked[ParkedTruncatedHeader] = []string{"true"}
	for k, v := range marked {
		if ofParking(k) || k == event.SequenceHeader || k == event.IncarnationHeader || k == event.SubscriptionHeader {
			few[k] = v
		}
	}
	for _, k := range essential {
		if v := m.Header.Get(k); v != "" {
			few[k] = []string{oneLine(v)}
		}
	}
	return []*nats.Msg{
		{Subject: m.Subject, Header: marked},
		{Subject: m.Subject, Header: few, Data: m.Data},
		{Subject: m.Subject, Header: maps.Clone(few)},
	}
}

func ofParking(header string) bool {
	return strings.HasPrefix(header, parkedHeaders) || strings.HasPrefix(header, natsHeaders)
}

// parseParked reads a message of the lot. It never fails: whatever is there must be seen, and can be dropped.
func parseParked(sequence uint64, subject string, stored time.Time, header nats.Header, data []byte) Parked {
	p := Parked{
		Sequence: sequence, Kind: Kind(header.Get(ParkedSinkHeader)), Subject: header.Get(ParkedSubjectHeader), Reason: header.Get(ParkedReasonHeader),
		At: stored, Truncated: header.Get(ParkedTruncatedHeader) != "", Header: make(nats.Header, len(header)), Data: data,
	}
	store, name, _ := strings.Cut(strings.TrimPrefix(subject, ParkedPrefix), ".")
	p.Store, p.Subscription = decoded(store), decoded(name)
	p.StoreSequence, _ = strconv.ParseUint(header.Get(event.SequenceHeader), 10, 64)
	p.Incarnation, _ = strconv.ParseUint(header.Get(event.IncarnationHeader), 10, 64)
	p.Attempts, _ = strconv.Atoi(header.Get(ParkedAttemptsHeader))
	if t, err := time.Parse(time.RFC3339Nano, header.Get(ParkedAtHeader)); err == nil {
		p.At = t
	}
	for k, v := range header {
		if !ofParking(k) {
			p.Header[k] = v
		}
	}
	return p
}

func decoded(token string) string {
	if name, err := subscription.DecodeToken(token); err == nil {
		return name
	}
	return token
}

// oneLine makes what a subscriber said fit for a header, a log line and a table: at most 512 bytes of valid UTF-8.
func oneLine(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), oversized)], "\uFFFD")
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if len(s) > longestReason {
		s = strings.TrimSpace(strings.ToValidUTF8(s[:longestReason], "")) // a character that was cut in two goes
	}
	return s
}
