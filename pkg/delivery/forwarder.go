package delivery

import (
	"context"
	"log/slog"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// forwarder takes a proxy's events in order, hands them to the sink one after the other, and acknowledges
// what that accepted. A sink that never waits is served where the event arrives; any other, and one that
// fails, by a worker that lives while there is something to do.
type forwarder struct {
	*Endpoint
	d            *Delivery
	subscription subscription.Subscription // without its start version
	fence        *Fence                    // of the store's proxies

	mu       sync.Mutex
	receiver Receiver
	history  uint64 // counts what the receiver forgot: an event of before is not acknowledged after
	transit  transit
	ack      acknowledgement
	queue    queue
	worker   worker
	closed   bool
	rest     <-chan struct{} // what close returned

	label    label
	target   target
	health   health
	arriving queued // that of forward: a sink has no use for an event after Deliver returned, and this is one allocation less for each
	counts   Counts
}

func newForwarder(e *Endpoint) *forwarder {
	f := &forwarder{
		Endpoint: e, d: e.store.delivery, fence: e.store.fence, subscription: e.identity(),
	}
	f.worker.f = f
	f.queue.room, f.queue.forwarder = f.d.memory, f
	f.label.key = []string{f.subscription.Key()}
	f.target.refresh(f)
	return f
}

// receive takes one message from an emitter.
func (f *forwarder) receive(m *nats.Msg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	h, numbered, err := event.ReadHandoff(m)
	switch {
	case err != nil:
		f.malformed(m, err)
		return
	case !numbered: // of a sender that keeps no account
		if !f.forward(h) {
			f.noMemory()
		}
		return
	}
	f.receiveHandoff(h)
}

// receiveLocal takes one from an emitter in the same process.
func (f *forwarder) receiveLocal(h event.Handoff) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.receiveHandoff(h)
	}
}

func (f *forwarder) receiveHandoff(h event.Handoff) {
	m, seq, term, prev := h.Message, h.Sequence, h.Term, h.Prev
	f.receiver.Fence = max(f.receiver.Fence, f.fence.Term())
	if term > f.receiver.Fence {
		f.fence.Raise(term) // from now on for all of the store's proxies
	}
	if seq == 0 {
		f.answerQuestion(m, term)
		return
	}
	decision := f.receiver.Receive(term, seq, prev)
	if decision == StaleTerm {
		f.d.decisions[decision].Inc()
		f.fence.warnRefused(term, f.receiver.Fence)
		f.d.answer(m.Reply, event.Answer{Kind: event.StaleTerm, Number: f.receiver.Fence})
		return
	}
	f.ack.reply = m.Reply
	switch decision {
	case Forward:
		if !f.forward(h) {
			f.receiver.Rewind(prev)
			f.noMemory()
			return
		}
	case Duplicate:
		f.answerAccepted()
	case Gap:
		if !f.d.memory.silent(&f.queue) {
			f.d.answer(f.ack.reply, event.Answer{Kind: event.Missing, Number: f.receiver.Last})
		}
	}
	f.d.decisions[decision].Inc()
}

// noMemory notes that an event was dropped since there is no room for it.
func (f *forwarder) noMemory() {
	f.d.Metrics.Received.WithLabelValues("no_memory").Inc()
	f.d.digest.Add(slog.LevelWarn, f.subscription.Store, "there is no memory for more events that wait for their sinks; emitters are asked for them again, by turns (delivery.memory)",
		"subscription", f.subscription.Name)
}

// requestAgain asks for the events that there was no room for. There is now.
func (f *forwarder) requestAgain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.sendAck()
	f.d.answer(f.ack.reply, event.Answer{Kind: event.Missing, Number: f.receiver.Last})
}

// malformed refuses what can't be read.
func (f *forwarder) malformed(m *nats.Msg, err error) {
	f.d.Metrics.Received.WithLabelValues("malformed").Inc()
	f.d.digest.Add(slog.LevelWarn, f.subscription.Store, "an event's headers can't be read; it is refused", "subscription", f.subscription.Name, "error", err)
	f.d.answer(m.Reply, event.Answer{Kind: event.Malformed})
}

// answerQuestion tells an emitter what was accepted and what was taken last.
func (f *forwarder) answerQuestion(m *nats.Msg, term uint64) {
	forgot, stale := f.receiver.Answer(term, m.Header.Get(event.EpochHeader))
	if stale {
		f.fence.warnRefused(term, f.receiver.Fence)
		f.d.answer(m.Reply, event.Answer{Kind: event.StaleTerm, Number: f.receiver.Fence})
		return
	}
	if forgot {
		f.history++
		f.ack.accepted, f.ack.pending = 0, 0
		f.transit.forget()
		f.d.Logger.Error("the store's sequences begin anew: its stream is another, or lost its end", "subscription", f.subscription.Name)
	}
	f.ack.reply = m.Reply
	if f.d.memory.silent(&f.queue) { // it would be sent what there is no room for
		f.answerAccepted()
		return
	}
	f.sendAck()
	f.d.answer(f.ack.reply, event.Answer{Kind: event.Missing, Number: f.receiver.Last})
}

// forward delivers an event, or queues it for the worker. It reports false where there is no room for it.
func (f *forwarder) forward(h event.Handoff) bool {
	m, seq, to := h.Message, h.Sequence, f.target.refresh(f)
	q := &f.arriving
	*q = queued{history: f.history, reply: m.Reply, event: sink.Event{
		Store: f.subscription.Store, Subscription: f.subscription.Name, Key: f.label.key[0], Sequence: seq, Incarnation: f.incarnation.Load(), Epoch: f.receiver.epoch, Message: m,
	}}
	f.label.attach(m, q.event.Incarnation)
	m.Reply = ""
	if !f.worker.running && f.queue.dropped == 0 && isClosed(f.after) {
		switch {
		case f.target.sender != nil && f.send(q):
			q.event.Message = nil
			return true
		case !f.target.waits && to.Deliver(context.Background(), &q.event) == nil:
			f.done(q)
			q.event.Message = nil
			return true
		}
	}
	q.load = loadOf(m, h.Shared)
	otherwise := queues
	_, finds := to.(sink.Prober)
	switch {
	case seq == 0:
		otherwise = stays
	case finds && !f.worker.running: // or thousands whose subscribers are away would stand before those who have somebody
		otherwise = pauses
	}
	held := f.queue.add(q, otherwise)
	q.load.first, q.event.Message = nil, nil // either would keep the event's data in memory
	if !held && (otherwise != pauses || !f.d.memory.isResting(&f.queue)) {
		return false
	}
	if !held {
		f.queue.dropped = seq
	}
	f.worker.start()
	return held
}

// close drops what waits, and returns a channel that is closed once what the sink has in hand is done with.
func (f *forwarder) close() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return f.rest
	}
	f.closed, f.rest = true, f.after
	f.d.memory.leave(&f.queue)
	if f.ack.pending > 0 {
		f.sendAck()
	}
	if f.worker.running {
		f.rest = f.worker.stop()
	} else if f.transit.underWay() {
		settled := make(chan struct{})
		f.rest = settled
		f.d.work.Go(func() {
			defer close(settled)
			ctx, cancel := context.WithTimeout(context.Background(), drainWithin)
			defer cancel()
			f.settle(ctx)
		})
	}
	return f.rest
}

func (f *forwarder) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.receiver.Last == f.ack.accepted && f.counts.Delivered == 0 {
		f.ack.accepted, f.receiver = 0, Receiver{Fence: f.receiver.Fence}
	}
}

func (f *forwarder) position() registration.Position {
	f.mu.Lock()
	defer f.mu.Unlock()
	return registration.Position{Accepted: f.ack.accepted, Epoch: f.receiver.epoch}
}

func (f *forwarder) heard() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ack.reply != "" || f.counts.Delivered > 0 || len(f.queue.events) > 0
}

// notify tells the holder why the sink takes no events; empty: it takes them.
func (f *forwarder) notify(reason string) { f.store.holder.Refusing(f.Endpoint, reason, false) }

func isClosed(c <-chan struct{}) bool {
	if c == nil {
		return true
	}
	select {
	case <-c:
		return true
	default:
		return false
	}
}
