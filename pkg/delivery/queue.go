package delivery

import "github.com/exesdb/subproxy/pkg/sink"

// queue is the events of one endpoint that wait for its sink, in order, and the endpoint's seat in the
// waiting room, where the events take memory. The forwarder's mutex guards it, but for the seat.
type queue struct {
	room      *waitingRoom
	forwarder *forwarder // requests the events that there was no room for
	events    []queued
	dropped   uint64 // sequence of the event that the sink did not accept, and that is not in memory any more; 0: none
	seat      seat   // the waiting room's mutex guards it
}

// queued is an event that waits, or that is delivered.
type queued struct {
	event   sink.Event
	history uint64
	reply   string // of an event without a sequence
	load    load
	part    int // of the waiting room
}

// add queues an event, or reports false where there is no room for it.
func (q *queue) add(e *queued, otherwise refusal) bool {
	if !q.room.hold(q, e, otherwise) {
		return false
	}
	q.events = append(q.events, *e)
	return true
}

// inHand is the sequence of the event that the sink has not accepted yet; 0: none.
func (q *queue) inHand() uint64 {
	if len(q.events) > 0 {
		return q.events[0].event.Sequence
	}
	return q.dropped
}

// removeFirst is for an event that was accepted, or parked.
func (q *queue) removeFirst() {
	q.room.release(q.events[0])
	q.events[0] = queued{}
	q.events, q.dropped = q.events[1:], 0
}

// drop takes all events out of memory: they are sent again, the first of them once the sink may accept it.
func (q *queue) drop() {
	q.dropped = q.events[0].event.Sequence
	q.clear()
}

// clear takes all events out of memory.
func (q *queue) clear() {
	q.room.release(q.events...)
	clear(q.events)
	q.events = nil
}

// clearNumbered takes out of memory what an emitter sends again, which are the events that have a sequence.
func (q *queue) clearNumbered() {
	kept := q.events[:0]
	for i := range q.events {
		if e := q.events[i]; e.event.Sequence == 0 {
			kept = append(kept, e)
		} else {
			q.room.release(e)
		}
	}
	clear(q.events[len(kept):])
	q.events = kept
}
