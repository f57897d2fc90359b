package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/sink"
)

// work hands what is queued to the sink, until nothing is.
func (f *forwarder) work(ctx context.Context) {
	if f.after != nil {
		<-f.after // of two runs of a subscription the later one waits, or its events would come in between
	}
	f.settle(ctx) // what was sent before what is queued
	if f.d.memory.rests(&f.queue) {
		f.repose(ctx)
	}
	for {
		batch, to := f.next()
		switch {
		case len(batch) == 0:
			return
		case to != nil && f.deliverBatch(ctx, to, batch):
		case f.deliver(ctx, &batch[0]):
			f.finished(&batch[0])
		}
	}
}

// A sink that takes several events at once is handed so many. For each batch a nats-server (2.15) makes a store of its own, 5 ms,
// in which it takes 25 to 40 events one by one.
const (
	leastBatch = 64
	maxBatch   = 256
)

// next are the events to deliver now, more than one only for a sink that takes them together. None ends the worker.
func (f *forwarder) next() ([]queued, sink.Batcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.queue.events) > 0 && !f.closed {
		to := f.target.refresh(f)
		least := leastBatch
		if f.target.sender != nil {
			least = 2
		}
		if many, ok := to.(sink.Batcher); ok && len(f.queue.events) >= least && !f.transit.doubts {
			return f.queue.events[:min(len(f.queue.events), maxBatch)], many
		}
		return f.queue.events[:1], nil
	}
	f.queue.clear()
	f.working = false
	f.cancel()
	if f.unsaid > 0 {
		f.sendAck()
	}
	if f.closed {
		close(f.idle)
	}
	return nil, nil
}

// deliverBatch hands over several events. It reports false where not even the first was accepted: that one has to be
// delivered by itself, with whatever its refusal entails.
func (f *forwarder) deliverBatch(ctx context.Context, to sink.Batcher, batch []queued) bool {
	events := make([]*sink.Event, len(batch))
	for i := range batch {
		events[i] = &batch[i].event
	}
	accepted, _ := to.DeliverBatch(ctx, events) // what was not accepted is tried again, and tells then why
	for i := range accepted {
		f.finished(&batch[i])
	}
	if accepted > 0 {
		f.well()
	}
	return accepted > 0
}

func (f *forwarder) finished(q *queued) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.health.unparked = false
	f.done(q)
	f.queue.removeFirst() // q itself, or what q was copied to
	if len(f.queue.events) == 0 && f.unsaid > 0 {
		f.sendAck()
	}
}

// Waits between attempts: the subscriber may be back any moment, and one that refuses may not mean it.
var redelivering = backoff.Backoff{First: 50 * time.Millisecond, Max: maxRetry}

const (
	maxRetry = 2 * time.Second

	// LongestWait bounds the wait between two attempts to deliver an event.
	LongestWait = maxRetry * 5 / 4 // more than its jitter adds
)

// trying is how often the event in hand was tried. It outlasts that the event is dropped and sent again.
type trying struct {
	sequence, history  uint64
	attempts, refusals int
}

// wait is how long to wait after another attempt.
func (t *trying) wait() time.Duration {
	t.attempts++
	return backoff.Spread(redelivering.After(t.attempts), backoff.Jitter())
}

// deliver tries until the event is accepted or parked. It reports false where the proxy stopped before, or has dropped the event since
// there is too little memory to hold it.
func (f *forwarder) deliver(ctx context.Context, q *queued) bool {
	t := &f.trying
	if t.sequence != q.event.Sequence || t.history != q.history || t.sequence == 0 {
		*t = trying{sequence: q.event.Sequence, history: q.history}
	}
	for {
		f.mu.Lock()
		to, config := f.target.refresh(f), f.target.config
		f.mu.Unlock()
		err := to.Deliver(ctx, &q.event)
		if err == nil {
			f.well()
			return true
		}
		var refused *sink.RefusedError
		if errors.As(err, &refused) {
			t.refusals++
			if (refused.Final || t.refusals >= max(config.MaxDeliver, 1)) && f.park(ctx, q, config, refused.Reason, t.refusals) {
				return true
			}
		}
		if errors.Is(err, sink.ErrSuperseded) {
			f.store.holder.Superseded(ctx, f.Endpoint, q.event.Incarnation)
		}
		f.unwell(err)
		wait := t.wait()
		if !errors.Is(err, sink.ErrNotSent) {
			wait = max(wait, f.d.resent(len(q.event.Message.Data)))
		}
		switch kept := f.keep(); {
		case !f.pause(wait):
			return false
		case !kept:
			f.repose(ctx)
			return false
		}
	}
}

// pause waits, and reports false where the proxy stopped before.
func (f *forwarder) pause(wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-f.quit:
		return false
	}
}

// keep is called after an attempt that failed, and reports whether its event stays in memory. Where memory is short the forwarder drops all
// that it has: its emitter is asked for it again, after what was accepted. What the emitter would not send again stays, which are events of
// a history of the store that is no more.
func (f *forwarder) keep() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.queue.events) == 0 || f.closed || f.queue.events[0].event.Sequence > 0 && f.queue.events[0].history != f.history || f.d.memory.retries(&f.queue) {
		return true
	}
	f.queue.drop()
	f.receiver.Rewind(f.accepted)
	return false
}

// repose waits, with nothing in memory, until the sink may take the event that was dropped, and then for its turn to ask for it.
func (f *forwarder) repose(ctx context.Context) {
	for {
		f.mu.Lock()
		to := f.target.refresh(f)
		f.mu.Unlock()
		knows, ok := to.(sink.Prober)
		if !ok {
			break
		}
		err := knows.Ready(ctx)
		if err == nil {
			break
		}
		f.unwell(err)
		if !f.pause(f.trying.wait()) {
			return
		}
	}
	f.d.memory.await(&f.queue)
}

func (f *forwarder) park(ctx context.Context, q *queued, config sink.Config, reason string, attempts int) bool {
	of := f.subscription
	if err := f.d.Park(ctx, &q.event, config, reason, attempts); err != nil {
		f.d.digest.Add(slog.LevelError, of.Store, "events that are refused can't be parked; they are tried again, and hold their subscriptions",
			"subscription", of.Name, "sequence", q.event.Sequence, "error", err)
		f.heldUp(fmt.Sprintf("an event is refused (%s) and can't be parked: %v", reason, err))
		return false
	}
	f.d.Metrics.Parked.Inc()
	f.d.digest.Add(slog.LevelWarn, of.Store, "events were refused and are parked",
		"subscription", of.Name, "sequence", q.event.Sequence, "attempts", attempts, "reason", reason)
	f.mu.Lock()
	f.counts.Parked++
	f.health.park()
	f.mu.Unlock()
	f.notify(reason) // until it accepts one
	return true
}

// heldUp tells the holder at once that an event is neither accepted nor parked.
func (f *forwarder) heldUp(reason string) {
	f.mu.Lock()
	tell := !f.closed && f.health.holdUp()
	f.mu.Unlock()
	if tell {
		f.store.holder.Refusing(f.Endpoint, reason, true)
	}
}

// What is sent again is bounded in bytes a second, for all sinks together: thousands of large events for subscribers that hang would
// take from all others what a server can carry.
const resentPerSecond = 32 << 20

// resent takes an attempt that failed, and returns how long the next one has to wait for its turn.
func (d *Delivery) resent(bytes int) time.Duration {
	return d.resending.ReserveN(time.Now(), min(bytes, resentPerSecond)).Delay()
}

func (f *forwarder) unwell(err error) {
	f.mu.Lock()
	tell := f.failed(err)
	f.mu.Unlock()
	tell()
}

func (f *forwarder) well() {
	f.mu.Lock()
	tell := f.healthy()
	f.mu.Unlock()
	tell()
}

// failed notes an attempt that failed. What it returns is called once f.mu is free.
func (f *forwarder) failed(err error) (tell func()) {
	f.d.Metrics.Refused.Inc()
	if !f.health.fail(err) || f.closed {
		return nothing
	}
	reason := err.Error()
	return func() { f.notify(reason) }
}

// healthy notes that the sink accepts events. What it returns is called once f.mu is free.
func (f *forwarder) healthy() (tell func()) {
	f.transit.doubts = false
	failed, told := f.health.recover()
	if failed {
		f.d.memory.accepts(&f.queue)
	}
	if !told || f.closed {
		return nothing
	}
	return func() { f.notify("") }
}
