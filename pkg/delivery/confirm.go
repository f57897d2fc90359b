package delivery

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/sink"
)

// transit is what an forwarder's sink has on its way to the server, and what a confirmation is worth when
// it comes. The events are not kept: the emitter has them until they are acknowledged. It is a plain value;
// the zero value has nothing under way.
type transit struct {
	to     sink.Sender
	since  sink.Mark // from before the oldest was sent
	last   uint64    // sequence sent last
	count  uint64    // of all that were sent so far
	known  uint64    // of those, how many are confirmed or given up
	asked  uint64    // of those, for how many a confirmation was asked
	turn   uint64    // counts what was given up: a confirmation that was asked for before says nothing after
	doubts bool      // something was given up, and nothing was accepted since
}

// waypoint is how far an forwarder was when a confirmation was asked for.
type waypoint struct {
	f           *forwarder
	since       sink.Mark // the oldest's: an earlier confirmation that is asked for may be heard of later
	to          sink.Sender
	last, count uint64
	turn        uint64
}

func (t *transit) underWay() bool { return t.count > t.known }

// takes reports whether the sink may send at once: what was sent to another, and what is in doubt, comes
// first.
func (t *transit) takes(to sink.Sender) bool {
	return to != nil && !t.doubts && (to == t.to || !t.underWay())
}

// note takes an event that was sent, after the mark since.
func (t *transit) note(to sink.Sender, sequence uint64, since sink.Mark) {
	if !t.underWay() {
		t.to, t.since = to, since
	}
	t.last = sequence
	t.count++
}

// ask is what a confirmation that is asked for now is worth.
func (t *transit) ask(f *forwarder) waypoint {
	t.asked = t.count
	return waypoint{f: f, since: t.since, to: t.to, last: t.last, count: t.count, turn: t.turn}
}

// settled reports whether what a waypoint stands for is confirmed or given up already.
func (t *transit) settled(m waypoint) bool { return m.turn != t.turn || m.count <= t.known }

// confirm notes that what a waypoint stands for is with the server, and returns how many more events than
// before. What was sent after it, was after next.
func (t *transit) confirm(m waypoint, next sink.Mark) (events uint64) {
	events = m.count - t.known
	t.known, t.since = m.count, next
	return events
}

// giveUp is for what may not have reached the server: it is not waited for any more.
func (t *transit) giveUp() {
	t.known, t.asked = t.count, t.count
	t.turn++
	t.doubts = true
}

// forget is for what counts no more, whatever becomes of it.
func (t *transit) forget() {
	t.giveUp()
	t.doubts = false
}

// confirmations are what a delivery asks the server for, for all forwarders that sent something, with one
// PING.
type confirmations struct {
	publisher *sink.Publisher // nil: there is none, and each event of a Sender waits for its own
	since     sink.Mark       // from before what is not asked for was sent
	now       bool            // an forwarder has sent many: don't wait for more
	under     atomic.Int32    // PINGs under way
}

const (
	// confirmEvery is how many events of an forwarder one PING is for, while they come without a pause: a
	// quarter of the largest window that an emitter has for it.
	confirmEvery = 256
	// maxConfirmations is how many PINGs are under way. On a long way to the server there are several,
	// ackAfter or confirmEvery events apart; where the server does not answer they would only pile up.
	maxConfirmations = 32
	// tellUnconfirmed is how long the server may take to answer before it is said.
	tellUnconfirmed = 3 * time.Second
)

// begin is called before the first event is sent that the next PING is for.
func (c *confirmations) begin() { c.since = c.publisher.Mark() }

// send sends an event that arrived, or reports false: it has to be queued.
func (f *forwarder) send(q *queued) bool {
	d := f.d
	if q.event.Sequence == 0 || !f.transit.takes(f.target.sender) { // a sender that keeps no account would not send it again
		return false
	}
	if len(d.unacked.forwarders) == 0 {
		d.confirming.begin()
	}
	if f.target.sender.Send(&q.event) != nil {
		return false
	}
	f.transit.note(f.target.sender, q.event.Sequence, d.confirming.since)
	if !f.ack.listed {
		f.ack.listed = true
		d.unacked.forwarders = append(d.unacked.forwarders, f)
	}
	d.confirming.now = d.confirming.now || f.transit.count-f.transit.asked >= confirmEvery
	return true
}

// confirm asks for what the forwarders of the waypoints have sent. It does not wait.
func (d *Delivery) confirm(marks []waypoint) {
	c := &d.confirming
	c.begin()
	next := c.since
	c.under.Add(1)
	d.work.Go(func() {
		defer c.under.Add(-1)
		late := time.AfterFunc(tellUnconfirmed, func() {
			for _, m := range marks {
				m.f.unconfirmedFor(tellUnconfirmed, m)
			}
		})
		receipt := c.publisher.Confirm(d.ending)
		late.Stop()
		for _, m := range marks {
			m.f.confirmed(m, next, receipt.Of(m.since, m.to.Subject()))
		}
	})
}

// confirmed takes the server's word about what was sent so far.
func (f *forwarder) confirmed(m waypoint, next sink.Mark, err error) {
	f.mu.Lock()
	tell := nothing
	switch {
	case f.transit.settled(m):
	case err != nil:
		tell = f.giveUp(err)
	default:
		tell = f.reached(m, next)
	}
	f.mu.Unlock()
	tell()
}

func nothing() {}

// reached acknowledges what the server has.
func (f *forwarder) reached(m waypoint, next sink.Mark) (tell func()) {
	n := f.transit.confirm(m, next)
	f.counts.Delivered += n
	f.target.forwarded.Add(float64(n))
	f.ack.accepted = m.last
	f.sendAck()
	return f.healthy()
}

// giveUp goes back to what the server has. The emitter is asked for the rest, which is delivered with a
// confirmation for each batch until one is accepted. What is queued comes after it.
func (f *forwarder) giveUp(err error) (tell func()) {
	f.transit.giveUp()
	f.receiver.Rewind(f.ack.accepted)
	f.queue.clearNumbered()
	if !f.closed && !f.d.memory.silent(&f.queue) {
		f.d.answer(f.ack.reply, event.Answer{Kind: event.Missing, Number: f.receiver.Last})
	}
	return f.failed(err)
}

// settle waits for what was sent, before anything else is delivered, or before the proxy's place is told to
// others.
func (f *forwarder) settle(ctx context.Context) {
	f.mu.Lock()
	if !f.transit.underWay() {
		f.mu.Unlock()
		return
	}
	m := f.transit.ask(f)
	f.mu.Unlock()
	f.confirmed(m, m.since, f.d.confirming.publisher.Confirm(ctx).Of(m.since, m.to.Subject()))
}

// unconfirmedFor says that the server has not answered for so long.
func (f *forwarder) unconfirmedFor(d time.Duration, m waypoint) {
	f.mu.Lock()
	tell := !f.transit.settled(m) && !f.closed && f.health.setTold()
	f.mu.Unlock()
	if tell {
		f.notify(fmt.Sprintf("published, and %v for %v", sink.ErrUnconfirmed, d))
	}
}
