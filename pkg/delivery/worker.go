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

// worker delivers what is queued, while there is something to do. The forwarder's mutex guards it, but for
// the attempts.
type worker struct {
	f        *forwarder
	running  bool
	attempts attempts           // only its goroutine uses them
	idle     chan struct{}      // closed at its end, where stop was called; made by stop
	quit     chan struct{}      // closed by stop: a worker that waits gives up; made by start
	cancel   context.CancelFunc // ends what it has in hand
}

// start begins to deliver, unless a goroutine does already.
func (w *worker) start() {
	if w.running {
		return
	}
	w.running, w.quit = true, make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.f.d.work.Go(func() { w.work(ctx) })
}

// stop ends a worker that runs. What it has in hand has drainWithin; then, or before, idle is closed.
func (w *worker) stop() (idle <-chan struct{}) {
	w.idle = make(chan struct{})
	close(w.quit)
	time.AfterFunc(drainWithin, w.cancel)
	return w.idle
}

// work hands what is queued to the sink, until nothing is.
func (w *worker) work(ctx context.Context) {
	if w.f.after != nil {
		<-w.f.after // of two runs of a subscription the later one waits, or its events would come in between
	}
	w.f.settle(ctx) // what was sent before what is queued
	if w.f.d.memory.isResting(&w.f.queue) {
		w.rest(ctx)
	}
	for done := (outcome{}); ; {
		batch, to, config := w.next(done)
		if len(batch) == 0 {
			return
		}
		if done = w.deliverBatch(ctx, to, batch); done.events == 0 {
			done = w.deliver(ctx, to, config, &batch[0])
		}
	}
}

// outcome is what became of the events that a worker delivered last.
type outcome struct {
	events   int  // of those that waited longest, how many are done with
	accepted bool // by the sink; else they are parked
}

// A sink that takes several events at once is handed so many. For each batch a nats-server (2.15) makes a
// store of its own, 5 ms, in which it takes 25 to 40 events one by one.
const (
	leastBatch = 64
	maxBatch   = 256
)

// next takes what became of the events before, and returns those to deliver now, more than one only for a
// sink that takes them together. None ends the worker.
func (w *worker) next(before outcome) (batch []queued, to sink.Sink, config sink.Config) {
	w.f.mu.Lock()
	tell := w.finish(before)
	batch, to = w.first()
	config = w.f.target.config
	w.f.mu.Unlock()
	tell()
	return batch, to, config
}

// finish forgets the events that are done with. What it returns is called once f.mu is free.
func (w *worker) finish(o outcome) (tell func()) {
	for range o.events {
		w.f.health.unparked = false
		w.f.done(&w.f.queue.events[0])
		w.f.queue.removeFirst()
	}
	if !o.accepted {
		return nothing
	}
	return w.f.healthy()
}

// first are the events that wait longest. Where there are none the worker has ended.
func (w *worker) first() ([]queued, sink.Sink) {
	waiting := w.f.queue.events
	if len(waiting) > 0 && !w.f.closed {
		to := w.f.target.refresh(w.f)
		least := leastBatch
		if w.f.target.sender != nil {
			least = 2
		}
		if _, ok := to.(sink.Batcher); ok && len(waiting) >= least && !w.f.transit.doubts {
			return waiting[:min(len(waiting), maxBatch)], to
		}
		return waiting[:1], to
	}
	w.f.queue.clear()
	w.running = false
	w.cancel()
	if w.f.ack.pending > 0 {
		w.f.sendAck()
	}
	if w.f.closed {
		close(w.idle)
	}
	return nil, nil
}

// deliverBatch hands over several events, if there are several. Where not even the first was accepted, that
// one has to be delivered by itself, with whatever its refusal entails.
func (w *worker) deliverBatch(ctx context.Context, to sink.Sink, batch []queued) outcome {
	if len(batch) == 1 {
		return outcome{}
	}
	events := make([]*sink.Event, len(batch))
	for i := range batch {
		events[i] = &batch[i].event
	}
	accepted, _ := to.(sink.Batcher).DeliverBatch(ctx, events) // what was not accepted is tried again, and tells then why
	return outcome{accepted, accepted > 0}
}

// Waits between attempts: the subscriber may be back any moment, and one that refuses may not mean it.
var redelivering = backoff.Backoff{First: 50 * time.Millisecond, Max: maxRetry}

const (
	maxRetry = 2 * time.Second

	// LongestWait bounds the wait between two attempts to deliver an event.
	LongestWait = maxRetry * 5 / 4 // more than its jitter adds
)

// attempts is how often the event in hand was tried. It outlasts that the event is dropped and sent again.
type attempts struct {
	sequence, history uint64
	count, refusals   int
}

// wait is how long to wait after another attempt.
func (t *attempts) wait() time.Duration {
	t.count++
	return backoff.Spread(redelivering.After(t.count), backoff.Jitter())
}

// deliver tries until the event is accepted or parked. No event is done with where the proxy stopped before,
// or has dropped the event since there is too little memory to hold it.
func (w *worker) deliver(ctx context.Context, to sink.Sink, config sink.Config, q *queued) outcome {
	t := &w.attempts
	if t.sequence != q.event.Sequence || t.history != q.history || t.sequence == 0 {
		*t = attempts{sequence: q.event.Sequence, history: q.history}
	}
	for {
		err := to.Deliver(ctx, &q.event)
		if err == nil {
			return outcome{events: 1, accepted: true}
		}
		var refused *sink.RefusedError
		if errors.As(err, &refused) {
			t.refusals++
			if (refused.Final || t.refusals >= max(config.MaxDeliver, 1)) && w.park(ctx, q, config, refused.Reason, t.refusals) {
				return outcome{events: 1}
			}
		}
		if errors.Is(err, sink.ErrSuperseded) {
			w.f.store.holder.Superseded(ctx, w.f.Endpoint, q.event.Incarnation)
		}
		w.noteFailure(err)
		wait := t.wait()
		if !errors.Is(err, sink.ErrNotSent) {
			wait = max(wait, w.f.d.resent(len(q.event.Message.Data)))
		}
		switch kept := w.keep(); {
		case !w.pause(wait):
			return outcome{}
		case !kept:
			w.rest(ctx)
			return outcome{}
		}
		w.f.mu.Lock()
		to, config = w.f.target.refresh(w.f), w.f.target.config
		w.f.mu.Unlock()
	}
}

// pause waits, and reports false where the proxy stopped before.
func (w *worker) pause(wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.quit:
		return false
	}
}

// keep is called after an attempt that failed, and reports whether its event stays in memory. Where memory
// is short the forwarder drops all that it has: its emitter is asked for it again, after what was accepted.
// What the emitter would not send again stays, which are events of a history of the store that is no more.
func (w *worker) keep() bool {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if len(w.f.queue.events) == 0 || w.f.closed || w.f.queue.events[0].event.Sequence > 0 && w.f.queue.events[0].history != w.f.history || w.f.d.memory.retries(&w.f.queue) {
		return true
	}
	w.f.queue.drop()
	w.f.receiver.Rewind(w.f.ack.accepted)
	return false
}

// rest waits, with nothing in memory, until the sink may take the event that was dropped, and then for
// its turn to ask for it.
func (w *worker) rest(ctx context.Context) {
	for {
		w.f.mu.Lock()
		to := w.f.target.refresh(w.f)
		w.f.mu.Unlock()
		knows, ok := to.(sink.Prober)
		if !ok {
			break
		}
		err := knows.Ready(ctx)
		if err == nil {
			break
		}
		w.noteFailure(err)
		if !w.pause(w.attempts.wait()) {
			return
		}
	}
	w.f.d.memory.await(&w.f.queue)
}

func (w *worker) park(ctx context.Context, q *queued, config sink.Config, reason string, attempts int) bool {
	of := w.f.subscription
	if err := w.f.d.Park(ctx, &q.event, config, reason, attempts); err != nil {
		w.f.d.digest.Add(slog.LevelError, of.Store, "events that are refused can't be parked; they are tried again, and hold their subscriptions",
			"subscription", of.Name, "sequence", q.event.Sequence, "error", err)
		w.heldUp(fmt.Sprintf("an event is refused (%s) and can't be parked: %v", reason, err))
		return false
	}
	w.f.d.Metrics.Parked.Inc()
	w.f.d.digest.Add(slog.LevelWarn, of.Store, "events were refused and are parked",
		"subscription", of.Name, "sequence", q.event.Sequence, "attempts", attempts, "reason", reason)
	w.f.mu.Lock()
	w.f.counts.Parked++
	w.f.health.park()
	w.f.mu.Unlock()
	w.f.notify(reason) // until it accepts one
	return true
}

// heldUp tells the holder at once that an event is neither accepted nor parked.
func (w *worker) heldUp(reason string) {
	w.f.mu.Lock()
	tell := !w.f.closed && w.f.health.holdUp()
	w.f.mu.Unlock()
	if tell {
		w.f.store.holder.Refusing(w.f.Endpoint, reason, true)
	}
}

// What is sent again is bounded in bytes a second, for all sinks together: thousands of large events for
// subscribers that hang would take from all others what a server can carry.
const resentPerSecond = 32 << 20

// resent takes an attempt that failed, and returns how long the next one has to wait for its turn.
func (d *Delivery) resent(bytes int) time.Duration {
	return d.resending.ReserveN(time.Now(), min(bytes, resentPerSecond)).Delay()
}

func (w *worker) noteFailure(err error) {
	w.f.mu.Lock()
	tell := w.f.failed(err)
	w.f.mu.Unlock()
	tell()
}
