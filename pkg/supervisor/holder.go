package supervisor

import (
	"context"
	"time"

	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/registration"
)

// A store's loop is the holder of its endpoints (delivery.Holder). The methods here run in the endpoints' workers.

// Refusing implements delivery.Holder.
func (l *loop) Refusing(e *delivery.Endpoint, reason string, unparked bool) {
	l.inbox.post(func(l *loop, now time.Time) { l.delivering(e, reason, unparked, now) })
}

// Superseded implements delivery.Holder. The loop is told what the bucket says as if that had been seen on the feed, and closes the
// endpoint where the record is another instance's. Where this instance holds the record and has meanwhile claimed it anew, what is in
// hand was received by an incarnation that is no more, and the proxy begins anew. Else the subscriber remembers what the bucket does
// not, and the event is tried again for as long as it takes.
func (l *loop) Superseded(ctx context.Context, e *delivery.Endpoint, incarnation uint64) {
	entry, ok, err := l.bucket.GetFromLeader(ctx, e.Key())
	switch {
	case err != nil || !ok:
		return // asked again after the next refusal
	case !entry.Contains(l.matcher):
		l.inbox.entry(entry)
		return
	}
	if record, err := registration.Decode(entry.Key, entry.Data); err == nil && record.Incarnation > incarnation {
		l.inbox.post(func(l *loop, now time.Time) {
			if it := l.byName[e.Name()]; it != nil && it.endpoint == e {
				l.restart(it, now)
			}
		})
	}
}

// onWrite is what an attempt tells the endpoint before its record goes out: an emitter may send before the write is acknowledged
// here. Offered says that the holder before told where it stopped, which counts for nothing any more where the record does not
// repeat it.
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
