package delivery

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// forwarder takes a proxy's events in order, hands them to the sink one after the other, and acknowledges what that accepted. A
// sink that never waits is served where the event arrives; any other, and one that fails, by a worker that lives
// while there is something to do.
type forwarder struct {
	*Endpoint
	d            *Delivery
	subscription subscription.Subscription // without its start version
	fence        *Fence                    // of the store's proxies

	mu       sync.Mutex
	receiver Receiver
	history  uint64 // counts what the receiver forgot: an event of before is not acknowledged after
	reply    string // where the emitter heard last waits for answers
	transit  transit
	accepted uint64 // sequence that the sink accepted last
	unsaid   int    // accepted and not acknowledged
	listed   bool   // in Delivery.unacked
	overdue  overdue
	queue    queue
	working  bool
	trying   trying // the worker's
	closed   bool
	rest     <-chan struct{}    // what close returned
	idle     chan struct{}      // closed by the worker that close found, at its end
	quit     chan struct{}      // closed by close: a worker that waits gives up; made with the worker
	cancel   context.CancelFunc // ends what the worker has in hand

	label    label
	target   target
	health   health
	arriving queued // that of forward: a sink has no use for an event after Deliver returned, and this is one allocation less for each
	counts   Counts
}

// Counts are what an endpoint has seen.
type Counts struct {
	Last      uint64 // sequence that the sink accepted last
	Delivered uint64 // accepted
	Errors    uint64 // attempts that failed
	Parked    uint64
	Kind      sink.Kind
	Subject   string // where it delivers to
	InHand    uint64 // sequence of the event that it has not accepted yet; 0: none
	Waits     bool   // there is no memory for the next event, or it does not ask for it while the sink takes nothing
}

func newForwarder(e *Endpoint) *forwarder {
	f := &forwarder{
		Endpoint: e, d: e.store.delivery, fence: e.store.fence, subscription: e.identity(),
	}
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
		if !f.forward(m, 0) {
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
	f.reply = m.Reply
	switch decision {
	case Forward:
		if !f.forward(m, seq) {
			f.receiver.Rewind(prev)
			f.noMemory()
			return
		}
	case Duplicate:
		f.answerAccepted()
	case Gap:
		if !f.d.memory.silent(&f.queue) {
			f.d.answer(f.reply, event.Answer{Kind: event.Missing, Number: f.receiver.Last})
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
	f.d.answer(f.reply, event.Answer{Kind: event.Missing, Number: f.receiver.Last})
}

// answerAccepted tells what was accepted, also where that is nothing.
func (f *forwarder) answerAccepted() {
	if f.accepted == 0 {
		f.d.answer(f.reply, event.Answer{Kind: event.Unaccepted})
	}
	f.sendAck()
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
		f.accepted, f.unsaid = 0, 0
		f.transit.forget()
		f.d.Logger.Error("the store's sequences begin anew: its stream is another, or lost its end", "subscription", f.subscription.Name)
	}
	f.reply = m.Reply
	if f.d.memory.silent(&f.queue) { // it would be sent what there is no room for
		f.answerAccepted()
		return
	}
	f.sendAck()
	f.d.answer(f.reply, event.Answer{Kind: event.Missing, Number: f.receiver.Last})
}

// forward delivers an event, or queues it for the worker. It reports false where there is no room for it.
func (f *forwarder) forward(m *nats.Msg, seq uint64) bool {
	to := f.target.refresh(f)
	q := &f.arriving
	*q = queued{history: f.history, reply: m.Reply, event: sink.Event{
		Store: f.subscription.Store, Subscription: f.subscription.Name, Key: f.label.key[0], Sequence: seq, Incarnation: f.incarnation.Load(), Epoch: f.receiver.epoch, Message: m,
	}}
	f.label.attach(m, q.event.Incarnation)
	m.Reply = ""
	if !f.working && f.queue.dropped == 0 && isClosed(f.after) {
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
	q.load = loadOf(m)
	otherwise := queues
	_, finds := to.(sink.Prober)
	switch {
	case seq == 0:
		otherwise = stays
	case finds && !f.working: // or thousands whose subscribers are away would stand before those who have somebody
		otherwise = asks
	}
	held := f.queue.add(q, otherwise)
	q.load.first, q.event.Message = nil, nil // either would keep the event's data in memory
	if !held && (otherwise != asks || !f.d.memory.rests(&f.queue)) {
		return false
	}
	if !held {
		f.queue.dropped = seq
	}
	if !f.working {
		f.working, f.quit = true, make(chan struct{})
		ctx, cancel := context.WithCancel(context.Background())
		f.cancel = cancel
		f.d.work.Go(func() { f.work(ctx) })
	}
	return held
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
	f.accepted = q.event.Sequence
	if f.unsaid++; f.unsaid >= ackEvery {
		f.sendAck()
		return
	}
	switch {
	case f.working:
		f.overdue.await(f)
	case !f.listed:
		f.listed = true
		f.d.unacked = append(f.d.unacked, f) // only who holds Delivery.receiving comes here
	}
}

// overdue sees to it that what a worker's sink accepted is acknowledged within ackWithin, whatever the sink has in hand by then.
// The forwarder's mutex guards it.
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
	f.overdue.armed = false
	if f.unsaid > 0 {
		f.sendAck()
	}
}

// acknowledge says what was accepted, and adds to marks what has to be confirmed first.
func (f *forwarder) acknowledge(marks []waypoint) []waypoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listed = false
	if f.unsaid > 0 {
		f.sendAck()
	}
	if f.transit.count == f.transit.asked || f.closed { // it is asked for where the forwarder was closed
		return marks
	}
	return append(marks, f.transit.ask(f))
}

func (f *forwarder) sendAck() {
	f.unsaid = 0
	if f.accepted > 0 {
		f.d.answer(f.reply, event.Answer{Kind: event.Acked, Number: f.accepted})
	}
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
	if f.unsaid > 0 {
		f.sendAck()
	}
	if f.working {
		f.idle = make(chan struct{})
		f.rest = f.idle
		close(f.quit)
		time.AfterFunc(drainWithin, f.cancel)
	} else if f.transit.underWay() {
		f.idle = make(chan struct{})
		f.rest = f.idle
		f.d.work.Go(func() {
			defer close(f.idle)
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
	if f.receiver.Last == f.accepted && f.counts.Delivered == 0 {
		f.accepted, f.receiver = 0, Receiver{Fence: f.receiver.Fence}
	}
}

func (f *forwarder) position() registration.Position {
	f.mu.Lock()
	defer f.mu.Unlock()
	return registration.Position{Accepted: f.accepted, Epoch: f.receiver.epoch}
}

func (f *forwarder) counted() Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.counts
	c.Errors = f.health.failures
	c.Last, c.Kind, c.Subject = f.accepted, f.target.config.Kind, f.target.config.Subject
	c.InHand = f.queue.inHand()
	c.Waits = len(f.queue.events) == 0 && f.d.memory.silent(&f.queue)
	return c
}

func (f *forwarder) heard() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reply != "" || f.counts.Delivered > 0 || len(f.queue.events) > 0
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
