package control

import "github.com/exesdb/subproxy/pkg/payload"

// What an answer has beside its texts, in bytes of JSON, at the most: the names of its fields, numbers and
// times.
const (
	listedFields   = 120
	instanceFields = 400 // those of the answer around it included
)

// Size is how many bytes it has in JSON at the most.
func (l *Listed) Size() int {
	return listedFields + payload.Text(l.Store) + payload.Text(l.Name) + payload.Text(string(l.SubscriptionType)) +
		payload.Text(l.Selector) + payload.Text(string(l.Health))
}

// Size is how many bytes an answer of the instance has in JSON at the most, but for the statuses in it.
func (i *Instance) Size() int { return instanceFields + i.Owner.Size() + payload.Text(i.Version) }
