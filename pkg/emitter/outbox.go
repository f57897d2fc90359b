package emitter

import (
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/event"
)

// outbox sends to proxies: questions, events, and marks behind them. It never waits. The leader's loop owns
// it.
type outbox struct {
	*outside
	replies string   // prefix of reply subjects
	term    sentTerm // what is sent with; the lease's may have risen since
	outlets outlets
}

// send sends an event to a subscription's proxy, which took prev before it.
func (o *outbox) send(s *sub, e *entry, prev uint64) error {
	if e.header == nil {
		e.header = outgoing(e)
	}
	if o.give(s, e, prev) {
		return nil
	}
	e.header[event.PrevHeader] = []string{strconv.FormatUint(prev, 10)}
	e.header[event.TermHeader] = o.term.value // which may have risen since the event was sent to another
	if err := o.nc.PublishMsg(&nats.Msg{Subject: s.registration.DeliverSubject, Reply: s.reply, Header: e.header, Data: e.event.Data}); err != nil {
		return err
	}
	o.carry(s, e.size)
	return nil
}

// carry notes what is sent to a subscription's instance.
func (o *outbox) carry(s *sub, bytes int) {
	to := s.outlet
	if to == nil {
		return
	}
	if to.sent += int64(bytes); to.marked <= to.heard && to.sent-to.heard >= to.limit()/marksPerLimit {
		o.mark(to, time.Now())
	}
}

// wayOf is how long to wait for the way to a subscription's proxy and back, beside what the proxy may take.
func (o *outbox) wayOf(s *sub) time.Duration {
	if s.outlet != nil && s.outlet.way.RoundTrip() > 0 {
		return s.outlet.way.Patience(0)
	}
	return o.way()
}

// roundTripTo is how long that way takes at the least; 0: it is not known. A proxy in this process may wait for
// its sink, which is at the other end of the connection.
func (o *outbox) roundTripTo(s *sub) time.Duration {
	switch {
	case s.outlet != nil:
		return s.outlet.way.Least()
	case o.link != nil:
		return o.link.Least()
	}
	return 0
}

// longestWay is wayOf the subscription whose proxy is the furthest away.
func (o *outbox) longestWay() time.Duration {
	longest := o.way()
	for _, to := range o.outlets.bySubject {
		if to.way.RoundTrip() > 0 {
			longest = max(longest, to.way.Patience(0))
		}
	}
	return longest
}

// mark asks an instance whether what was sent has arrived.
func (o *outbox) mark(to *outlet, now time.Time) {
	delete(o.outlets.byMark, to.number)
	o.outlets.last++
	to.number, to.marked, to.markedAt = o.outlets.last, to.sent, now
	o.outlets.byMark[to.number] = to
	_ = o.nc.PublishMsg(&nats.Msg{Subject: to.subject, Reply: o.replies + ".0." + strconv.FormatUint(to.number, 10), Header: nats.Header{
		event.SequenceHeader: {"0"}, event.TermHeader: o.term.value,
	}}) // one that is lost is sent again by remark
}

// arrived takes the answer to a mark, whatever it says: also that nobody listens. It returns the outlet
// that has room for it; nil: none.
func (o *outbox) arrived(number uint64, now time.Time) *outlet {
	to := o.outlets.byMark[number]
	if to == nil {
		return nil
	}
	delete(o.outlets.byMark, number)
	to.hear(now)
	if to.due(now) {
		o.mark(to, now)
	}
	return to
}

// remark sends marks again that are not answered.
func (o *outbox) remark(now time.Time) {
	for _, to := range o.outlets.byMark {
		if to.due(now) {
			o.mark(to, now)
		}
	}
}

// route notes which instance a subscription's events go to now.
func (o *outbox) route(s *sub) {
	var to *outlet
	if !s.local {
		to = o.outlets.of(s.registration.DeliverSubject)
	}
	if to != s.outlet {
		s.outlet, s.line = to, nil
	}
}

// forgetOutlets forgets those of instances that hold nothing any more.
func (o *outbox) forgetOutlets(subs map[string]*sub) {
	used := map[*outlet]bool{}
	for _, s := range subs {
		used[s.outlet] = true
	}
	o.outlets.retain(used)
}

// question asks a proxy what it took last, and says which history of the store this is about.
func (o *outbox) question(s *sub, epoch string) bool {
	m := &nats.Msg{Subject: s.registration.DeliverSubject, Reply: s.reply, Header: nats.Header{
		event.SequenceHeader: {"0"}, event.TermHeader: o.term.value, event.EpochHeader: {epoch},
	}}
	return s.local && o.local.Offer(event.Handoff{Message: m, Term: o.term.number}) || o.nc.PublishMsg(m) == nil
}

// give hands an event to a proxy in this process. What nobody else wants goes with its headers, and is gone
// for the emitter.
func (o *outbox) give(s *sub, e *entry, prev uint64) bool {
	if !s.local {
		return false
	}
	h := event.Handoff{
		Message:  &nats.Msg{Subject: s.registration.DeliverSubject, Reply: s.reply, Header: e.header, Data: e.event.Data},
		Sequence: e.event.Sequence, Prev: prev, Term: o.term.number, Shared: !e.alone,
	}
	if !e.alone {
		h.Message.Header = maps.Clone(e.header)
	}
	if !o.local.Offer(h) {
		return false
	}
	if e.alone {
		e.given, e.header, e.event.Header = true, nil, nil
	}
	return true
}

// outgoing are an event's headers as they are sent to every subscription, but for the term and what it is
// sent after.
func outgoing(e *entry) nats.Header {
	h := e.event.Complete()
	h[event.SequenceHeader] = []string{strconv.FormatUint(e.event.Sequence, 10)}
	return h
}
