package event

import (
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Kind says what a message of a store's stream is. The text of what is no event stands in metrics.
type Kind string

// The kinds.
const (
	IsEvent  Kind = ""
	Marker   Kind = "marker"   // the server left it where messages expired, or were purged or deleted
	Schedule Kind = "schedule" // the server stores an event from it when it is due; that one is an event
	NoEvent  Kind = "malformed"
)

// KindOf tells the server's markers and schedules from events, by their headers as they are stored. Whether
// the rest are events is for FromMessage to say. Header names are compared as the server compares them,
// with their case.
func KindOf(stored nats.Header) Kind {
	switch {
	case len(stored[jetstream.MarkerReasonHeader]) > 0:
		return Marker
	case len(stored[jetstream.ScheduleHeader]) > 0:
		return Schedule
	default:
		return IsEvent
	}
}
