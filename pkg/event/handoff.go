package event

import (
	"bytes"
	"strconv"

	"github.com/nats-io/nats.go"
)

// Headers of the hand-off between an emitter and a proxy (subjects.md, "Delivery").
const (
	// SequenceHeader is the event's sequence in the store; what is forwarded keeps it. 0 is a question: see EpochHeader.
	SequenceHeader = "Exesdb-Seq"
	// PrevHeader is the sequence of the event that the proxy took before this one; 0: none.
	PrevHeader = "Exesdb-Prev"
	// TermHeader is the sending leader's term.
	TermHeader = "Exesdb-Term"
	// EpochHeader stands in questions, and says which history of the store the sequences are of. A proxy that took events
	// of another one forgets them. It answers a question with what it accepted and what it took last.
	EpochHeader = "Exesdb-Epoch"
	// IncarnationHeader stands in everything that a proxy forwards: the incarnation of its registration.
	IncarnationHeader = "Exesdb-Incarnation"
)

// Handoff is a message on its way from an emitter to a proxy, with what its headers say of the hand-off. In one process these
// headers, but for the sequence of an event, are spared.
type Handoff struct {
	Message              *nats.Msg // the taker's
	Sequence, Prev, Term uint64
}

// AnswerKind is what an answer says.
type AnswerKind uint8

// The kinds of answer.
const (
	Acked     AnswerKind = iota + 1 // everything up to Number was accepted; Number 0 answers an event without a sequence
	Missing                         // Number was taken last; send again what comes after it
	StaleTerm                       // refused: Number is the term of a later leader
	Malformed                       // refused: the headers can't be read
	Gone                            // refused: the deliver subject is no longer that of a proxy
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
	case bytes.HasPrefix(data, ackPrefix) && len(data) > len(ackPrefix) && data[len(ackPrefix)] == ' ':
		a.Kind, rest = Acked, data[len(ackPrefix)+1:]
	case bytes.HasPrefix(data, nakPrefix):
		a.Kind, rest = Missing, data[len(nakPrefix):]
	case bytes.HasPrefix(data, stalePrefix):
		a.Kind, rest = StaleTerm, data[len(stalePrefix):]
	default:
		return Answer{}, false
	}
	if a.Number, ok = number(rest); !ok {
		return Answer{}, false
	}
	return a, true
}

func number(digits []byte) (n uint64, ok bool) {
	if len(digits) == 0 || len(digits) > 1 && digits[0] == '0' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(digits), 10, 64)
	return n, err == nil
}
