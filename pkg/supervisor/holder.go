package supervisor

import (
	"context"
	"time"

	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
)

// holder opens and closes the endpoints of a store's proxies, and is their delivery.Holder. Refusing and
// Superseded run in the endpoints' workers, all else in the loop's goroutine.
type holder struct {
	*roster
	endpoints *delivery.Endpoints // nil: the proxies receive no events
	alerter   *alerter
}

// sync opens the endpoint of a proxy that begins to hold the subscription, and closes that of one that
// ends. Each endpoint has a deliver subject of its own, so that an emitter knows that nothing was forwarded
// there yet, but for what the holder before told that its sink had accepted.
func (h *holder) sync(it *managed) {
	p := &it.proxy
	switch holds := p.Started && !p.Standby && !p.Stopped; {
	case !holds:
		h.close(it)
	case it.endpoint == nil:
		if it.number == 0 {
			it.number = h.numbers.Add(1)
		}
		if h.endpoints != nil {
			h.open(it, p.HandedOver)
		}
	}
}

// open begins to receive a proxy's events: where the holder before stopped, if that one told.
func (h *holder) open(it *managed, stopped *proxy.HandedOver) {
	start := delivery.Start{Subscription: &it.proxy.Subscription, Number: it.number, After: it.busy}
	if stopped != nil {
		start.At = stopped.At
	}
	it.endpoint = h.endpoints.Open(start)
}

// close closes the endpoint. What the sink has in hand goes on.
func (h *holder) close(it *managed) {
	it.number = 0
	if it.endpoint == nil {
		return
	}
	it.busy = it.endpoint.Close()
	it.endpoint = nil
	h.alerter.heldUp(it, false, time.Now())
}

// Refusing implements delivery.Holder.
func (h *holder) Refusing(e *delivery.Endpoint, reason string, unparked bool) {
	h.inbox.post(func(l *loop, now time.Time) { l.delivering(e, reason, unparked, now) })
}

// Superseded implements delivery.Holder. The loop is told what the bucket says as if that had been seen on
// the feed, and closes the endpoint where the record is another instance's. Where this instance holds the
// record and has meanwhile claimed it anew, what is in hand was received by an incarnation that is no more,
// and the proxy begins anew. Else the subscriber remembers what the bucket does not, and the event is tried
// again for as long as it takes.
func (h *holder) Superseded(ctx context.Context, e *delivery.Endpoint, incarnation uint64) {
	entry, ok, err := h.bucket.GetFromLeader(ctx, e.Key())
	switch {
	case err != nil || !ok:
		return // asked again after the next refusal
	case !entry.Contains(h.matcher):
		h.inbox.entry(entry)
		return
	}
	if record, err := registration.Decode(entry.Key, entry.Data); err == nil && record.Incarnation > incarnation {
		h.inbox.post(func(l *loop, now time.Time) {
			if it := l.byName[e.Name()]; it != nil && it.endpoint == e {
				l.restart(it, now)
			}
		})
	}
}

// onWrite is what an attempt tells the endpoint before its record goes out: an emitter may send before the
// write is acknowledged here. Offered says that the holder before told where it stopped, which counts for
// nothing any more where the record does not repeat it.
func onWrite(e *delivery.Endpoint, offered bool) func(incarnation uint64, handedOver bool) {
	if e == nil {
		return nil
	}
	return func(incarnation uint64, handedOver bool) {
		if offered && !handedOver {
			offered = false
			e.Forget()
		}
		e.SetIncarnation(incarnation)
	}
}

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

// delivering notes that an endpoint's sink takes no events, or takes them again (reason empty); and, with
// unparked, that an event which the sink refuses can't be parked either. What a closed endpoint finds out
// says nothing about the next one.
func (l *loop) delivering(in *delivery.Endpoint, reason string, unparked bool, now time.Time) {
	it := l.byName[in.Name()]
	if it == nil || it.endpoint != in {
		return
	}
	l.alerter.heldUp(it, unparked, now)
	if reason == it.proxy.Refusal {
		l.reporter.mark(it, proxy.Soon) // something else about it changed
		return
	}
	l.stepper.step(it, proxy.Input{Kind: proxy.Delivering, Reason: reason}, now)
}
