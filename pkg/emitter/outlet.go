package emitter

import (
	"time"

	"github.com/exesdb/subproxy/pkg/link"
)

const (
	// maxUnheard bounds the bytes that are on their way to one instance, over all of its subscriptions; one
	// event may always be. Over a thin link it is less. The instance's client takes 32 MiB before it drops
	// messages, and the server 64 MiB before it ends the connection. What goes to a subscription that has little to get waits behind
	// these bytes.
	maxUnheard = 8 << 20
	// marksPerLimit is how often the instance is asked, while as many bytes are sent, whether they have arrived.
	marksPerLimit = 4
)

// outlet is what is on its way to one instance. It bounds bytes that travel, and not what the instance
// holds: that an event has arrived says nothing about whether it is accepted. The leader's loop owns it.
//
// To know what has arrived, the leader sends a mark behind it: a question on the instance's deliver subject
// number 0, which is no proxy's. Messages of one connection arrive in order, and each is answered when
// those before it were dealt with.
type outlet struct {
	subject string // of marks

	sent, heard int64  // bytes, since the leader began
	marked      int64  // sent before the mark that is under way; at most heard: none is
	number      uint64 // of that mark
	markedAt    time.Time

	way    link.Estimator // to the instance and back
	budget link.Budget    // half of the bytes that may be on that way

	waiting []*sub // have an event to get, and there is no room; in order
}

// outlets are those of all instances that hold subscriptions.
type outlets struct {
	bySubject map[string]*outlet
	byMark    map[uint64]*outlet // whose mark is under way
	last      uint64             // number of a mark
}

// of is the outlet for a deliver subject, which ends in a number of the instance's.
func (o *outlets) of(deliverSubject string) *outlet {
	prefix, _, ok := cutLast(deliverSubject)
	if !ok {
		return nil
	}
	subject := prefix + ".0"
	if o.bySubject == nil {
		o.bySubject, o.byMark = map[string]*outlet{}, map[uint64]*outlet{}
	}
	if o.bySubject[subject] == nil {
		o.bySubject[subject] = &outlet{subject: subject}
	}
	return o.bySubject[subject]
}

// retain forgets the outlets that are not in use.
func (o *outlets) retain(used map[*outlet]bool) {
	for subject, out := range o.bySubject {
		if !used[out] {
			delete(o.bySubject, subject)
			delete(o.byMark, out.number)
		}
	}
}

// limit is how many bytes may be on their way.
func (o *outlet) limit() int64 { return min(maxUnheard, 2*int64(o.budget.Size())) }

// hear takes the answer to the mark that is under way.
func (o *outlet) hear(now time.Time) {
	took := now.Sub(o.markedAt)
	o.way.Observe(took)
	o.budget.Judge(int(o.marked-o.heard), took, o.way.Least())
	o.heard = o.marked
}

// room reports whether one more event may be sent.
func (o *outlet) room() bool { return o == nil || o.sent-o.heard < o.limit() }

// wait has a subscription wait for room.
func (o *outlet) wait(s *sub) {
	if s.line != o {
		s.line = o
		o.waiting = append(o.waiting, s)
	}
}

// next takes the first subscription that waits out of the line; nil: there is none, or no room.
func (o *outlet) next() *sub {
	for len(o.waiting) > 0 && o.room() {
		s := o.waiting[0]
		o.waiting[0] = nil
		o.waiting = o.waiting[1:]
		if s.line == o { // else its proxy is another instance's by now
			s.line = nil
			return s
		}
	}
	if len(o.waiting) == 0 {
		o.waiting = nil
	}
	return nil
}

// due reports whether a mark is to be sent: none is under way and enough was sent since the last, or the
// one that is was lost.
func (o *outlet) due(now time.Time) bool {
	if o.marked > o.heard {
		return now.Sub(o.markedAt) >= stallAfter+o.way.Patience(0)
	}
	return o.sent-o.heard >= o.limit()/marksPerLimit
}
