package status

import (
	"github.com/exesdb/subproxy/pkg/payload"
)

// What a message has beside its texts, in bytes of JSON, at the most: the names of its fields, numbers and
// times.
const (
	statusFields = 960
	handedFields = 160
)

// Size is how many bytes the status has in JSON at the most.
func (s *Status) Size() int {
	n := statusFields + s.Owner.Size() + s.ReportedBy.Size() + s.PassedOver.Size()
	for _, text := range [...]string{
		s.Envelope.Type, s.Envelope.ID, s.Store, s.Name, string(s.SubscriptionType), s.Selector, string(s.Health), string(s.Breaker),
		s.Verification, string(s.LastCause), s.LastError, string(s.Moving), s.Sink, string(s.SinkState),
	} {
		n += payload.Text(text)
	}
	return n
}

// Size is how many bytes it has in JSON at the most.
func (h *Handed) Size() int { return handedFields + payload.Text(h.Name) + payload.Text(h.Epoch) }
