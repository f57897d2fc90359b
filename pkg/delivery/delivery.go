package delivery

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/exesdb/subproxy/pkg/digest"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// DeliverPrefix begins every deliver subject: <instance id>.<n> follows.
const DeliverPrefix = "exesdb.proxy.deliver."

// Options are what an instance receives and forwards events with. Every field but Logger, Metrics and
// Budget is required.
type Options struct {
	Conn  *nats.Conn
	Owner registration.Owner
	// Sink returns where a subscription's events go. It is called when its first event arrives, and again
	// after Refresh, by several goroutines at once.
	Sink func(s subscription.Subscription) (sink.Sink, sink.Config)
	// Publisher is the one that its publish sinks send on, so that one confirmation serves all that they
	// have under way. Without it, or where a sink has another, events wait for their confirmations one
	// after the other.
	Publisher *sink.Publisher
	// Park keeps an event that was refused too often. It is tried until it returns nil.
	Park    func(ctx context.Context, e *sink.Event, c sink.Config, reason string, attempts int) error
	Budget  int64 // bytes of events that wait for their sinks, in all; default DefaultBudget
	Logger  *slog.Logger
	Metrics *Metrics
}

// Delivery is the receiving end of an instance: one NATS subscription on all its deliver subjects, and
// behind it an endpoint for each proxy. The supervisor opens and closes endpoints; an endpoint that never
// had an event, and was not handed over, costs a map entry.
type Delivery struct {
	Options
	sub     *nats.Subscription
	local   chan event.Handoff // closed by nobody; Stop ends its reader
	prefix  int                // length of what stands before the number in a deliver subject
	memory  *waitingRoom       // of events that wait for sinks
	refresh atomic.Uint64      // counts Refresh
	stop    chan struct{}
	work    sync.WaitGroup // the dispatcher and the endpoints' workers
	done    chan struct{}  // closed when the dispatcher has ended

	mu        sync.RWMutex
	endpoints map[uint64]*Endpoint // by number

	receiving  sync.Mutex      // held while something is received, or acknowledged
	stopped    bool            // receiving guards it
	unacked    unacked         // likewise
	confirming confirmations   // receiving guards it, but for what is under way
	ending     context.Context // ends drainWithin after Stop was called
	end        context.CancelFunc

	decisions [StaleTerm + 1]prometheus.Counter
	digest    *digest.Log

	resending *rate.Limiter // bytes
}

const (
	// DefaultBudget is what events that wait for their sinks may take. An event that is larger than its
	// part of a budget may wait alone there.
	DefaultBudget = 256 << 20
	// pendingBytes is how much may wait to be received from the connection, or two of the largest messages.
	// More is dropped, which is a gap like any other.
	pendingBytes = 32 << 20
	// pendingLocal is how many from an emitter in the same process may; it waits while there are more.
	pendingLocal = 1 << 12
	// ackEvery is how many events that a sink accepted one by one are acknowledged together, and ackAfter
	// how long fewer wait for more; ackWithin where more are waiting for their sink.
	ackEvery  = 100
	ackAfter  = time.Millisecond
	ackWithin = 100 * time.Millisecond
	// drainWithin is what a sink is given for the event that it has in hand when its proxy stops.
	drainWithin = 5 * time.Second
)

// New makes a delivery that has not begun.
func New(o Options) *Delivery {
	if o.Budget == 0 {
		o.Budget = DefaultBudget
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	d := &Delivery{
		Options: o, prefix: len(DeliverPrefix) + len(o.Owner.ID) + 1,
		memory: newWaitingRoom(o.Budget), local: make(chan event.Handoff, pendingLocal), unacked: newUnacked(), stop: make(chan struct{}), done: make(chan struct{}), endpoints: map[uint64]*Endpoint{},
		digest: digest.New(o.Logger, digest.Interval), resending: rate.NewLimiter(resentPerSecond, resentPerSecond),
	}
	d.confirming.publisher = o.Publisher
	d.ending, d.end = context.WithCancel(context.Background())
	for v := range d.decisions {
		d.decisions[v] = o.Metrics.Received.WithLabelValues(Decision(v).String())
	}
	return d
}

// Start subscribes to the instance's deliver subjects. It returns when the server knows, so that a
// registration that is written afterwards names a subject that somebody listens on.
func (d *Delivery) Start() error {
	subject := DeliverPrefix + d.Owner.ID + ".*"
	sub, err := d.Conn.Subscribe(subject, d.receive)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	if err := sub.SetPendingLimits(-1, max(pendingBytes, 2*int(d.Conn.MaxPayload()))); err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	d.sub = sub
	go d.dispatch()
	if err := d.Conn.FlushTimeout(2 * time.Second); err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	return nil
}

// Stop ends receiving, closes the endpoints that a supervisor which was cut short left open, and waits for
// what their sinks have in hand.
func (d *Delivery) Stop() {
	if d.sub == nil {
		return
	}
	_ = d.sub.Unsubscribe() // fails only on a closed connection
	defer d.end()
	defer time.AfterFunc(drainWithin, d.end).Stop()
	close(d.stop)
	<-d.done
	d.mu.Lock()
	open := slices.Collect(maps.Values(d.endpoints))
	d.mu.Unlock()
	for _, e := range open {
		e.Close()
	}
	d.work.Wait()
	d.digest.Close()
}

// Refresh makes every endpoint ask for its sink again.
func (d *Delivery) Refresh() { d.refresh.Add(1) }

// Queued is how many bytes of events wait for their sinks.
func (d *Delivery) Queued() int64 { return d.memory.bytes() }

// Prefix begins the deliver subjects of this instance.
func (d *Delivery) Prefix() string { return DeliverPrefix + d.Owner.ID + "." }

// Offer takes a message on a deliver subject of this instance from an emitter in the same process, which
// spares it the way over the server. The message is the delivery's from then on. False means that the
// delivery has ended.
func (d *Delivery) Offer(h event.Handoff) bool {
	select {
	case d.local <- h:
		return true
	default:
	}
	select {
	case d.local <- h:
		return true
	case <-d.stop:
		return false
	}
}

// dispatch takes what an emitter in this process hands over, and acknowledges in time what comes on either
// way.
func (d *Delivery) dispatch() {
	defer close(d.done)
	pause := time.NewTimer(time.Hour)
	defer pause.Stop()
	for {
		select {
		case h := <-d.local:
			d.receiving.Lock()
			d.receiveLocal(h)
			d.received()
			d.receiving.Unlock()
		case <-d.unacked.begin:
			pause.Reset(ackAfter)
		case <-pause.C:
			d.receiving.Lock()
			d.unacked.pausing = false
			d.acknowledge()
			d.receiving.Unlock()
		case <-d.memory.freed:
			d.requestAgain()
		case <-d.stop:
			d.receiving.Lock()
			d.stopped = true
			d.acknowledge()
			d.receiving.Unlock()
			return
		}
	}
}

// receive takes one message from the connection.
func (d *Delivery) receive(m *nats.Msg) {
	d.receiving.Lock()
	defer d.receiving.Unlock()
	if d.stopped {
		return
	}
	if e := d.endpointOf(m); e != nil {
		e.forwarder().receive(m)
	}
	d.received()
}

// received sees to it that what was accepted is acknowledged: now where that is much, and else after a
// pause.
func (d *Delivery) received() {
	if d.confirming.now {
		d.acknowledge()
	}
	d.unacked.pause()
}

// requestAgain asks for events that there was no room for.
func (d *Delivery) requestAgain() {
	asked := false
	for q := d.memory.next(time.Now()); q != nil; q = d.memory.next(time.Now()) {
		q.forwarder.requestAgain()
		asked = true
	}
	if asked {
		time.AfterFunc(promiseFor, d.memory.wake)
	}
}

// atOnce is how many handoffs are received in a row: looking after everything else for each would cost more
// than some take.
const atOnce = 64

func (d *Delivery) receiveLocal(h event.Handoff) {
	for n := 1; ; n++ {
		if e := d.endpointOf(h.Message); e != nil {
			e.forwarder().receiveLocal(h)
		}
		if n == atOnce {
			return
		}
		select {
		case h = <-d.local:
		default:
			return
		}
	}
}

// endpointOf is nil where there is none, and the emitter is told so.
func (d *Delivery) endpointOf(m *nats.Msg) *Endpoint {
	if len(m.Subject) <= d.prefix {
		return nil
	}
	number, err := strconv.ParseUint(m.Subject[d.prefix:], 10, 64)
	if err != nil {
		return nil
	}
	d.mu.RLock()
	e := d.endpoints[number]
	d.mu.RUnlock()
	if e == nil {
		d.answer(m.Reply, event.Answer{Kind: event.Gone})
	}
	return e
}

// acknowledge says what endpoints without a worker have accepted, and has confirmed what they have sent.
func (d *Delivery) acknowledge() {
	d.confirming.now = false
	if d.confirming.under.Load() >= maxConfirmations {
		return
	}
	var marks []waypoint
	for _, f := range d.unacked.forwarders {
		marks = f.acknowledge(marks)
	}
	d.unacked.clear()
	if len(marks) > 0 {
		d.confirm(marks)
	}
}

func (d *Delivery) answer(reply string, a event.Answer) {
	if reply == "" {
		return
	}
	if err := d.Conn.Publish(reply, a.Encode()); err != nil {
		d.Logger.Debug("an emitter could not be answered", "error", err) // it will ask
	}
}
