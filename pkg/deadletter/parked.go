package deadletter

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

// Names of the stream and its subjects.
const (
	Stream = "EXESDB_PARKED"
	Prefix = "exesdb.parked." // <store>.<subscription> follows, each as one token
)

// Headers of a parked event, beside its own, event.SequenceHeader, event.IncarnationHeader and
// event.SubscriptionHeader.
const (
	ReasonHeader    = "Exesdb-Parked-Reason"    // one line, at most 512 bytes
	AttemptsHeader  = "Exesdb-Parked-Attempts"  // how often it was refused
	SinkHeader      = "Exesdb-Parked-Sink"      // the kind of sink that refused it
	SubjectHeader   = "Exesdb-Parked-Subject"   // where it was to go; absent for a handler
	AtHeader        = "Exesdb-Parked-At"        // RFC 3339, UTC
	TruncatedHeader = "Exesdb-Parked-Truncated" // "true" where data or headers had to be left out
)

const (
	headerPrefix  = "Exesdb-Parked-"
	natsHeaders   = "Nats-" // instructions to JetStream: none of the event's may be taken for the stream's
	longestReason = 512     // bytes
	oversized     = 4 * longestReason
)

// Parked is one event in the stream. What a message lacks that somebody put there by hand is empty.
type Parked struct {
	Sequence uint64 // in the stream
	Store    string
	// Subscription is the name of the one that refused it.
	Subscription  string
	StoreSequence uint64
	Incarnation   uint64
	Sink          string // the kind of sink that refused it
	Subject       string // where it was to go
	Attempts      int
	Reason        string
	At            time.Time
	Truncated     bool        // data or headers are missing: it can't be replayed
	Header        nats.Header // the event's own, with Exesdb-Seq and Exesdb-Incarnation
	Data          []byte
}

// StreamID and Type are the event's, empty where its headers don't tell.
func (p *Parked) StreamID() string { return event.AttributeIn(p.Header, "subject") }
func (p *Parked) Type() string     { return event.AttributeIn(p.Header, "type") }

// EventID is the event's own id, empty where its headers don't tell.
func (p *Parked) EventID() string { return event.AttributeIn(p.Header, "id") }

// Key is that of the subscription's registration, empty where the event's headers don't tell.
func (p *Parked) Key() string { return p.Header.Get(event.SubscriptionHeader) }

// Message is what is replayed. It is marked with no incarnation: it comes from none, after events that come
// after it, and a subscriber that refuses what is older than what it has seen must not refuse it.
func (p *Parked) Message() *nats.Msg {
	header := maps.Clone(p.Header)
	delete(header, event.IncarnationHeader)
	return &nats.Msg{Header: header, Data: p.Data}
}

// Refused is one event that is to be parked. Message has the event's own headers and data, and stays as it
// is.
type Refused struct {
	ID                  string // what has the same is parked once; where the store's sequence is known the ID ends in a slash and that; empty: unknown
	Store, Subscription string
	Key                 string // of the subscription's registration; empty where it is not known
	Sequence            uint64 // the store's; 0 where the sender gave none
	Incarnation         uint64
	Message             *nats.Msg
	Sink                string // the kind of sink that refused it
	Subject             string // where it was to go; empty for a handler
	Reason              string
	Attempts            int // how often it was refused
}

func subjectOf(store, name string) string {
	return Prefix + subscription.TokenOrStar(store) + "." + subscription.TokenOrStar(name)
}

// message is the event as the stream stores it: headers and data as they came, and why it is there. The
// event's own headers stay as they are.
func message(e *Refused, now time.Time) *nats.Msg {
	h := make(nats.Header, len(e.Message.Header)+9)
	for k, v := range e.Message.Header {
		if !reserved(k) {
			h[k] = v
		}
	}
	h[ReasonHeader] = []string{OneLine(e.Reason)}
	h[AttemptsHeader] = []string{strconv.Itoa(e.Attempts)}
	h[SinkHeader] = []string{e.Sink}
	if e.Subject != "" {
		h[SubjectHeader] = []string{e.Subject}
	}
	h[AtHeader] = []string{now.UTC().Format(time.RFC3339Nano)}
	if e.Sequence > 0 { // a sender may give none
		h[event.SequenceHeader] = []string{strconv.FormatUint(e.Sequence, 10)}
	}
	h[event.IncarnationHeader] = []string{strconv.FormatUint(e.Incarnation, 10)}
	if e.Key != "" {
		h[event.SubscriptionHeader] = []string{e.Key}
	}
	return &nats.Msg{Subject: subjectOf(e.Store, e.Subscription), Header: h, Data: e.Message.Data}
}

// essential are the event's headers that are kept where not all of them can be.
var essential = [...]string{event.IDHeader, event.TypeHeader, event.SubjectHeader, event.SourceHeader, event.TimeHeader, event.DataContentTypeHeader, event.ContentTypeHeader}

// truncated returns what may be kept of a message that can't be stored as it is, the largest first.
func truncated(m *nats.Msg) []*nats.Msg {
	marked, few := maps.Clone(m.Header), nats.Header{}
	marked[TruncatedHeader] = []string{"true"}
	for k, v := range marked {
		if reserved(k) || k == event.SequenceHeader || k == event.IncarnationHeader || k == event.SubscriptionHeader {
			few[k] = v
		}
	}
	for _, k := range essential {
		if v := m.Header.Get(k); v != "" {
			few[k] = []string{OneLine(v)}
		}
	}
	return []*nats.Msg{
		{Subject: m.Subject, Header: marked},
		{Subject: m.Subject, Header: few, Data: m.Data},
		{Subject: m.Subject, Header: maps.Clone(few)},
	}
}

func reserved(header string) bool {
	return strings.HasPrefix(header, headerPrefix) || strings.HasPrefix(header, natsHeaders)
}

// parseParked reads a message of the stream. It never fails: whatever is there must be seen, and can be
// dropped.
func parseParked(sequence uint64, subject string, stored time.Time, header nats.Header, data []byte) Parked {
	p := Parked{
		Sequence: sequence, Sink: header.Get(SinkHeader), Subject: header.Get(SubjectHeader), Reason: header.Get(ReasonHeader),
		At: stored, Truncated: header.Get(TruncatedHeader) != "", Header: make(nats.Header, len(header)), Data: data,
	}
	store, name, _ := strings.Cut(strings.TrimPrefix(subject, Prefix), ".")
	p.Store, p.Subscription = decoded(store), decoded(name)
	p.StoreSequence, _ = strconv.ParseUint(header.Get(event.SequenceHeader), 10, 64)
	p.Incarnation, _ = strconv.ParseUint(header.Get(event.IncarnationHeader), 10, 64)
	p.Attempts, _ = strconv.Atoi(header.Get(AttemptsHeader))
	if t, err := time.Parse(time.RFC3339Nano, header.Get(AtHeader)); err == nil {
		p.At = t
	}
	for k, v := range header {
		if !reserved(k) {
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

// OneLine makes what a subscriber said fit for a header, a log line and a table: at most 512 bytes of valid
// UTF-8.
func OneLine(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), oversized)], "\uFFFD")
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if len(s) > longestReason {
		s = strings.TrimSpace(strings.ToValidUTF8(s[:longestReason], "")) // a character that was cut in two goes
	}
	return s
}
