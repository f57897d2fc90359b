package delivery

import (
	"time"

	"github.com/exesdb/subproxy/pkg/event"
)

// acknowledgement is what the sink of an endpoint has accepted, and how much of that its emitter was not
// told yet. The forwarder's mutex guards it.
type acknowledgement struct {
	reply    string // where the emitter heard last waits for answers
	accepted uint64 // sequence that the sink accepted last
	pending  int    // accepted and not acknowledged
	listed   bool   // in Delivery.unacked
	overdue  overdue
}

// unacked are the forwarders whose sinks accepted events that are not acknowledged yet. After a pause they
// are acknowledged together.
type unacked struct {
	forwarders []*forwarder
	pausing    bool
	begin      chan struct{} // tells the dispatcher to begin a pause; never closed
}

func newUnacked() unacked { return unacked{begin: make(chan struct{}, 1)} }

// pause has a pause begin where there is anything to acknowledge after it.
func (u *unacked) pause() {
	if !u.pausing && len(u.forwarders) > 0 {
		u.pausing = true
		u.begin <- struct{}{} // has room: there is one for each pause
	}
}

func (u *unacked) clear() {
	clear(u.forwarders)
	u.forwarders = u.forwarders[:0]
}

// done notes that the sink accepted an event, or that it is parked.
func (f *forwarder) done(q *queued) {
	f.counts.Delivered++
	f.target.forwarded.Inc()
	switch {
	case q.event.Sequence == 0:
		f.d.answer(q.reply, event.Answer{Kind: event.Acked})
		return
	case q.history != f.history:
		return
	}
	f.ack.accepted = q.event.Sequence
	if f.ack.pending++; f.ack.pending >= ackEvery {
		f.sendAck()
		return
	}
	switch {
	case f.worker.running:
		f.ack.overdue.await(f)
	case !f.ack.listed:
		f.ack.listed = true
		f.d.unacked.forwarders = append(f.d.unacked.forwarders, f) // only who holds Delivery.receiving comes here
	}
}

// overdue sees to it that what a worker's sink accepted is acknowledged within ackWithin, whatever the sink
// has in hand by then. The forwarder's mutex guards it.
type overdue struct {
	timer *time.Timer
	armed bool
}

func (o *overdue) await(f *forwarder) {
	switch {
	case o.armed:
		return
	case o.timer == nil:
		o.timer = time.AfterFunc(ackWithin, f.acknowledgeOverdue)
	default:
		o.timer.Reset(ackWithin)
	}
	o.armed = true
}

func (f *forwarder) acknowledgeOverdue() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ack.overdue.armed = false
	if f.ack.pending > 0 {
		f.sendAck()
	}
}

// acknowledge says what was accepted, and adds to marks what has to be confirmed first.
func (f *forwarder) acknowledge(marks []waypoint) []waypoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ack.listed = false
	if f.ack.pending > 0 {
		f.sendAck()
	}
	if f.transit.count == f.transit.asked || f.closed { // it is asked for where the forwarder was closed
		return marks
	}
	return append(marks, f.transit.ask(f))
}

func (f *forwarder) sendAck() {
	f.ack.pending = 0
	if f.ack.accepted > 0 {
		f.d.answer(f.ack.reply, event.Answer{Kind: event.Acked, Number: f.ack.accepted})
	}
}

// answerAccepted tells what was accepted, also where that is nothing.
func (f *forwarder) answerAccepted() {
	if f.ack.accepted == 0 {
		f.d.answer(f.ack.reply, event.Answer{Kind: event.Unaccepted})
	}
	f.sendAck()
}
