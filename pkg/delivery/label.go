package delivery

import (
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/event"
)

// label is the headers that every event of an endpoint is forwarded with. Their values are shared by
// events, and changed by nobody.
type label struct {
	key         []string // the registration's
	incarnation uint64   // that values is of
	values      []string
}

// attach replaces the headers of the hand-off, which are between the emitter and the proxy, by those for
// the sink.
func (l *label) attach(m *nats.Msg, incarnation uint64) {
	if l.values == nil || l.incarnation != incarnation {
		l.incarnation, l.values = incarnation, []string{strconv.FormatUint(incarnation, 10)}
	}
	delete(m.Header, event.PrevHeader)
	delete(m.Header, event.TermHeader)
	if m.Header == nil {
		m.Header = nats.Header{}
	}
	m.Header[event.IncarnationHeader] = l.values
	m.Header[event.SubscriptionHeader] = l.key
}
