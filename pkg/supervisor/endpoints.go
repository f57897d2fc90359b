package supervisor

import (
	"time"

	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/rebalance"
)

// syncEndpoint opens and closes the place where a proxy's events come in, as the proxy begins to hold the subscription and ends. Each
// time it begins it has a deliver subject of its own, so that whoever sends knows that nothing was taken there yet, but for what the
// holder before said that it had accepted.
func (l *loop) syncEndpoint(it *managed) {
	p := &it.proxy
	switch holds := p.Started && !p.Standby && !p.Stopped; {
	case !holds:
		l.closeEndpoint(it)
	case it.endpoint == nil:
		if it.number == 0 {
			it.number = l.numbers.Add(1)
		}
		if l.endpoints != nil {
			l.openEndpoint(it, p.HandedOver)
		}
	}
}

// openEndpoint begins to receive a proxy's events: where the holder before stopped, if that one told.
func (l *loop) openEndpoint(it *managed, stopped *proxy.HandedOver) {
	start := delivery.Start{Subscription: &it.proxy.Subscription, Number: it.number, After: it.busy}
	if stopped != nil {
		start.At = stopped.At
	}
	it.endpoint = l.endpoints.Open(start)
}

// closeEndpoint ends the place where the events come in. What the sink has in hand goes on.
func (l *loop) closeEndpoint(it *managed) {
	it.number = 0
	if it.endpoint == nil {
		return
	}
	it.busy = it.endpoint.Close()
	it.endpoint = nil
	l.heldUp(it, false, time.Now())
}

// release deletes a proxy's record, or offers it to the instance that requested it, once the sink has nothing
// in hand. From is where its events came in; nil: nowhere.
func (l *loop) release(it *managed, from *delivery.Endpoint, offered bool, now time.Time) {
	p := &it.proxy
	w := kv.Write{Key: it.key, Revision: p.Revision, Incarnation: max(p.Incarnation, p.Claim), Term: l.inbox.fence.Term()}
	r, busy := release{Write: w, drained: it.busy, from: from, offered: offered}, it.busy
	draining := !isClosed(busy)
	if offered {
		l.transfers.Note(rebalance.Input{Kind: rebalance.Released, Key: it.key, Draining: draining}, now)
	} else {
		r.since = now
	}
	l.releases = append(l.releases, r)
	if draining {
		l.work.Go(func() {
			<-busy // closed within drainWithin
			l.inbox.signal()
		})
	}
}

// delivering takes an endpoint's word that its sink takes no events, or takes them again (reason empty); and, with unparked, that an
// event which it refuses can't be parked either. That of one that is shut says nothing about the next.
func (l *loop) delivering(in *delivery.Endpoint, reason string, unparked bool, now time.Time) {
	it := l.byName[in.Name()]
	if it == nil || it.endpoint != in {
		return
	}
	l.heldUp(it, unparked, now)
	if reason == it.proxy.Refusal {
		l.mark(it, proxy.Soon) // something else about it changed
		return
	}
	l.step(it, proxy.Input{Kind: proxy.Delivering, Reason: reason}, now)
}
