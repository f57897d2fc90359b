package health

import (
	"github.com/exesdb/subproxy/pkg/payload"
	"github.com/exesdb/subproxy/pkg/registration"
)

// What a message has beside its texts, in bytes of JSON, at the most: the names of its fields, numbers and times.
const (
	statusFields   = 960
	listedFields   = 120
	handedFields   = 160
	ownerFields    = 80
	instanceFields = 400 // those of the answer around it included
)

// Size is how many bytes the status has in JSON at the most.
func (s *Status) Size() int {
	n := statusFields + ownerSize(&s.Owner) + ownerSize(&s.ReportedBy) + s.PassedOver.Size()
	for _, text := range [...]string{
		s.Envelope.Type, s.Envelope.ID, s.Store, s.Name, string(s.SubscriptionType), s.Selector, string(s.Health), string(s.Breaker),
		s.Verification, string(s.LastCause), s.LastError, string(s.Moving), s.Sink, string(s.SinkState),
	} {
		n += payload.Text(text)
	}
	return n
}

// Size is how many bytes it has in JSON at the most.
func (l *Listed) Size() int {
	return listedFields + payload.Text(l.Store) + payload.Text(l.Name) + payload.Text(string(l.SubscriptionType)) +
		payload.Text(l.Selector) + payload.Text(string(l.Health))
}

// Size is how many bytes it has in JSON at the most.
func (h *Handed) Size() int { return handedFields + payload.Text(h.Name) + payload.Text(h.Epoch) }

// Size is how many bytes an answer of the instance has in JSON at the most, but for the statuses in it.
func (i *Instance) Size() int { return instanceFields + ownerSize(&i.Owner) + payload.Text(i.Version) }

func ownerSize(o *registration.Owner) int {
	return ownerFields + payload.Text(o.Name) + payload.Text(o.ID) + payload.Text(o.Host)
}
