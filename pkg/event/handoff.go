package event

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// Headers of the hand-off between an emitter and a proxy (subjects.md, "Delivery"). A proxy reads them
// whatever their case, and writes them as they are here.
const (
	// SequenceHeader is the event's sequence in the store; what is forwarded keeps it. 0 is a question: see
	// EpochHeader.
	SequenceHeader = "Exesdb-Seq"
	// PrevHeader is the sequence of the event that the proxy took before this one; 0: none.
	PrevHeader = "Exesdb-Prev"
	// TermHeader is the sending leader's term. In the marker of a deleted registration or lease it is the
	// highest known.
	TermHeader = "Exesdb-Term"
	// EpochHeader stands in questions, and says which history of the store the sequences are of. A proxy
	// that took events of another one forgets them. It answers a question with what it accepted and what it
	// took last.
	EpochHeader = "Exesdb-Epoch"
	// IncarnationHeader stands in everything that a proxy forwards: the incarnation of its registration.
	IncarnationHeader = "Exesdb-Incarnation"
	// SubscriptionHeader does too, and in what is parked: the registration's key. A subscription with
	// another type or selector is another one, though its events go where the others went.
	SubscriptionHeader = "Exesdb-Subscription"
)

// MaxTerm is the last term there is. One above it is malformed wherever it stands, so that terms fit a
// signed number of 64 bit in every language.
const MaxTerm = math.MaxInt64

// Handoff is a message on its way from an emitter to a proxy, with what its headers say of the hand-off. In
// one process these headers, but for the sequence of an event, are spared.
type Handoff struct {
	Message              *nats.Msg // the taker's
	Sequence, Prev, Term uint64
	Shared               bool // the data are other takers' too
}

// The errors of ReadHandoff.
var (
	errNumber = errors.New("is no decimal number of 64 bits, without a sign and without leading zeros")
	errData   = errors.New(SequenceHeader + " is 0, which is a question, and a question has no data; sequences begin with 1")
)

// ReadHandoff reads what the headers of a message say of the hand-off, and leaves them spelt as they are
// here. Numbered is false where the sender gives no sequence. The error is one of the sender.
func ReadHandoff(m *nats.Msg) (h Handoff, numbered bool, err error) {
	h.Message = m
	text, numbered := spell(m.Header, SequenceHeader)
	if !numbered {
		return h, false, nil
	}
	if h.Sequence, err = headerNumber(SequenceHeader, text); err != nil {
		return h, true, err
	}
	if text, ok := spell(m.Header, TermHeader); ok {
		if h.Term, err = headerNumber(TermHeader, text); err != nil {
			return h, true, err
		}
		if h.Term > MaxTerm {
			return h, true, fmt.Errorf("%s: %d is above the last term, %d", TermHeader, h.Term, uint64(MaxTerm))
		}
	}
	if text, ok := spell(m.Header, PrevHeader); ok {
		if h.Prev, err = headerNumber(PrevHeader, text); err != nil {
			return h, true, err
		}
	}
	if h.Sequence == 0 {
		spell(m.Header, EpochHeader)
		if len(m.Data) > 0 {
			return h, true, errData
		}
	}
	return h, true, nil
}

func headerNumber(name, text string) (uint64, error) {
	n, ok := number(text)
	if !ok {
		return 0, fmt.Errorf("%s: %q %w", name, text, errNumber)
	}
	return n, nil
}

// spell returns the first value of a header. Where the header is only there in another case, it is renamed.
func spell(h nats.Header, name string) (value string, ok bool) {
	if v := h[name]; len(v) > 0 {
		return v[0], true
	}
	for other, values := range h {
		if len(other) == len(name) && len(values) > 0 && strings.EqualFold(other, name) {
			delete(h, other)
			h[name] = values
			return values[0], true
		}
	}
	return "", false
}

// Value returns the first value of a header, whatever the case of its name; empty where there is none.
func Value(h nats.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	for other, v := range h {
		if len(other) == len(name) && len(v) > 0 && strings.EqualFold(other, name) {
			return v[0]
		}
	}
	return ""
}

// isHandoff reports whether a header is one of a hand-off, whatever its case.
func isHandoff(header string) bool {
	if len(header) < len(handoffPrefix) || header[0]|0x20 != 'e' || !strings.EqualFold(header[:len(handoffPrefix)], handoffPrefix) {
		return false
	}
	for _, own := range [...]string{SequenceHeader, PrevHeader, TermHeader, EpochHeader, IncarnationHeader} {
		if strings.EqualFold(header, own) {
			return true
		}
	}
	return false
}

// handoffPrefix begins the name of every header of the hand-off.
const handoffPrefix = "Exesdb-"

// AnswerKind is what an answer says.
type AnswerKind uint8

// The kinds of answer.
const (
	Acked      AnswerKind = iota + 1 // everything up to Number was accepted; Number 0 answers an event without a sequence
	Missing                          // Number was taken last; send again what comes after it
	StaleTerm                        // refused: Number is the term of a later leader
	Malformed                        // refused: the headers can't be read
	Gone                             // refused: the deliver subject is no longer that of a proxy
	Unaccepted                       // a duplicate, and nothing is accepted yet of what the proxy was sent: nothing moves
)

// Answer is what a proxy says on an event's reply subject.
type Answer struct {
	Kind   AnswerKind
	Number uint64
}

var (
	ackPrefix       = []byte("+ACK")
	nakPrefix       = []byte("-NAK ")
	stalePrefix     = []byte("-ERR stale_term ")
	malformedAnswer = []byte("-ERR malformed")
	goneAnswer      = []byte("-ERR gone")
	noneAnswer      = []byte("+ACK 0")
)

// Encode writes the answer as it is sent.
func (a Answer) Encode() []byte {
	prefix := stalePrefix
	switch a.Kind {
	case Acked:
		if a.Number == 0 {
			return ackPrefix
		}
		prefix = append(ackPrefix[:len(ackPrefix):len(ackPrefix)], ' ')
	case Missing:
		prefix = nakPrefix
	case Malformed:
		return malformedAnswer
	case Gone:
		return goneAnswer
	case Unaccepted:
		return noneAnswer
	}
	return strconv.AppendUint(append(make([]byte, 0, len(prefix)+20), prefix...), a.Number, 10)
}

// ParseAnswer reads an answer; ok is false for anything else.
func ParseAnswer(data []byte) (a Answer, ok bool) {
	rest := data
	switch {
	case bytes.Equal(data, ackPrefix):
		return Answer{Kind: Acked}, true
	case bytes.Equal(data, malformedAnswer):
		return Answer{Kind: Malformed}, true
	case bytes.Equal(data, goneAnswer):
		return Answer{Kind: Gone}, true
	case bytes.Equal(data, noneAnswer):
		return Answer{Kind: Unaccepted}, true
	case bytes.HasPrefix(data, ackPrefix) && len(data) > len(ackPrefix) && data[len(ackPrefix)] == ' ':
		a.Kind, rest = Acked, data[len(ackPrefix)+1:]
	case bytes.HasPrefix(data, nakPrefix):
		a.Kind, rest = Missing, data[len(nakPrefix):]
	case bytes.HasPrefix(data, stalePrefix):
		a.Kind, rest = StaleTerm, data[len(stalePrefix):]
	default:
		return Answer{}, false
	}
	if a.Number, ok = number(string(rest)); !ok {
		return Answer{}, false
	}
	return a, true
}

// number reads a decimal number in the one form that there is of it.
func number(digits string) (n uint64, ok bool) {
	if digits == "" || len(digits) > 1 && digits[0] == '0' || digits[0] < '0' || digits[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil
}
