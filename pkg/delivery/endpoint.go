package delivery

import (
	"context"
	"sync/atomic"

	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Holder is the side that keeps the registrations of a store. Its methods are called by workers, and must
// not wait for an endpoint.
type Holder interface {
	// Refusing says why the endpoint's sink takes no events; empty: it takes them again. Unparked says that
	// an event which is refused can't be parked either, and holds up those after it.
	Refusing(e *Endpoint, reason string, unparked bool)
	// Superseded says that the subscriber has accepted events of a later incarnation than the one given.
	// Only the bucket tells who holds the subscription: where that is another instance, the endpoint is to
	// be closed. Until then its event is tried again.
	Superseded(ctx context.Context, e *Endpoint, incarnation uint64)
}

// Endpoints opens the endpoints of one store.
type Endpoints struct {
	delivery *Delivery
	fence    *Fence
	holder   Holder
}

// Endpoints are those of a store: its leaders are fenced by f, and what its endpoints find out is told to
// h.
func (d *Delivery) Endpoints(f *Fence, h Holder) *Endpoints {
	return &Endpoints{delivery: d, fence: f, holder: h}
}

// Start is what an endpoint begins with.
type Start struct {
	// Subscription is whose events they are. Its store, type, selector and name must not change; nothing
	// else of it is read.
	Subscription *subscription.Subscription
	Number       uint64                // of the deliver subject, unique in the instance
	At           registration.Position // where the holder before stopped; zero: not known
	After        <-chan struct{}       // closed when the endpoint before this one has nothing in hand; nil: there was none
}

// Endpoint is one start of a proxy as a receiver of events. Its forwarder is made with the first message,
// or when it is known where the holder before stopped. It is safe for concurrent use.
type Endpoint struct {
	store        *Endpoints
	subscription *subscription.Subscription
	number       uint64
	after        <-chan struct{}
	incarnation  atomic.Uint64
	flow         atomic.Pointer[forwarder]
}

// Open begins to receive events.
func (s *Endpoints) Open(at Start) *Endpoint {
	e := &Endpoint{store: s, subscription: at.Subscription, number: at.Number, after: at.After}
	if at.At != (registration.Position{}) {
		f := newForwarder(e)
		f.ack.accepted, f.receiver = at.At.Accepted, ReceiverAt(at.At)
		e.flow.Store(f)
	}
	d := s.delivery
	d.mu.Lock()
	d.endpoints[at.Number] = e
	d.mu.Unlock()
	return e
}

// Name is the subscription's.
func (e *Endpoint) Name() string { return e.subscription.Name }

// Key is the registration's.
func (e *Endpoint) Key() string { return e.identity().Key() }

// identity is the subscription without what may change while it is read.
func (e *Endpoint) identity() subscription.Subscription {
	s := e.subscription
	return subscription.Subscription{Store: s.Store, Type: s.Type, Selector: s.Selector, Name: s.Name}
}

// SetIncarnation tells which registration names the endpoint, before that is written: an emitter may send
// before the write is acknowledged.
func (e *Endpoint) SetIncarnation(n uint64) { e.incarnation.Store(n) }

func (e *Endpoint) forwarder() *forwarder {
	if f := e.flow.Load(); f != nil {
		return f
	}
	e.flow.CompareAndSwap(nil, newForwarder(e))
	return e.flow.Load()
}

// Finish receives nothing more, as Close, but that what comes is dropped and no emitter is told that the
// endpoint is gone: the next run of the proxy begins where this one stops.
func (e *Endpoint) Finish() (drained <-chan struct{}) {
	f := e.flow.Load()
	if f == nil {
		return e.after
	}
	return f.close()
}

// Close receives nothing more. What waits is dropped, since it is not acknowledged; the channel is closed
// once what the sink had in hand, of this endpoint or of one before, is done with, and acknowledged. It is
// nil where there never was anything.
func (e *Endpoint) Close() (drained <-chan struct{}) {
	d := e.store.delivery
	d.mu.Lock()
	delete(d.endpoints, e.number)
	d.mu.Unlock()
	return e.Finish()
}

// Forget begins where nobody stopped, unless an event was forwarded by now.
func (e *Endpoint) Forget() {
	if f := e.flow.Load(); f != nil {
		f.forget()
	}
}

// Position is where the sink of a closed endpoint stopped.
func (e *Endpoint) Position() registration.Position {
	f := e.flow.Load()
	if f == nil {
		return registration.Position{}
	}
	return f.position()
}

// Counts is what the endpoint has seen so far.
func (e *Endpoint) Counts() Counts {
	f := e.flow.Load()
	if f == nil {
		return Counts{}
	}
	return f.counted()
}

// Heard reports whether an emitter ever sent anything: an event or a question.
func (e *Endpoint) Heard() bool {
	f := e.flow.Load()
	return f != nil && f.heard()
}
