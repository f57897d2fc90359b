package link

import (
	"context"
	"runtime"
	"sync"
	"time"
	"weak"

	"github.com/nats-io/nats.go"
)

// Link is what is known of the way that a connection takes. It is safe for concurrent use.
type Link struct {
	nc weak.Pointer[nats.Conn]

	mu        sync.Mutex
	estimator Estimator
	probedAt  time.Time // zero: no probe is under way
	budget    Budget
	freed     chan struct{} // closed when there is room in the budget again; nil: nobody waits
	losses    uint64        // of the connection, as far as the budget knows of them
}

// links are those of all connections there are, by weak.Pointer[nats.Conn].
var links sync.Map

// Of is the connection's link, which is the same for all who ask. The first who asks has it measured.
func Of(nc *nats.Conn) *Link {
	key := weak.Make(nc)
	if l, ok := links.Load(key); ok {
		return l.(*Link)
	}
	l, there := links.LoadOrStore(key, &Link{nc: key})
	if !there {
		runtime.AddCleanup(nc, func(key weak.Pointer[nats.Conn]) { links.Delete(key) }, key)
		l.(*Link).Probe()
	}
	return l.(*Link)
}

// Observe takes how long an answer took that did not wait for anything but the way there and back.
func (l *Link) Observe(took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.estimator.Observe(took)
}

// RoundTrip is how long a round trip takes at present; 0: none was measured yet.
func (l *Link) RoundTrip() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.estimator.RoundTrip()
}

// Least is the shortest round trip that was measured, without the time in queues and of a busy machine: what
// the way itself takes; 0: none was measured yet.
func (l *Link) Least() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.estimator.Least()
}

// Patience is how long to wait for the answer of somebody who takes up to work for it. A PING that is not
// answered yet says that a round trip takes as long at the least.
func (l *Link) Patience(work time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	patience := l.estimator.Patience(work)
	if !l.probedAt.IsZero() {
		patience = max(patience, work+2*time.Since(l.probedAt))
	}
	return patience
}

// Limit is ctx, limited by Patience. The function that ends it says whether the time was over, which has the
// link measured: it may have become slow.
func (l *Link) Limit(ctx context.Context, work time.Duration) (limited context.Context, end func()) {
	limited, cancel := context.WithTimeout(ctx, l.Patience(work))
	return limited, func() {
		if limited.Err() != nil && ctx.Err() == nil {
			l.Probe()
		}
		cancel()
	}
}

// Request makes a request of somebody who takes up to work to answer. What the answer takes is measured. One
// that did not come in time is waited for until the server has answered a PING as well: the answer may be on
// its way, behind much else or large, and who asked again would have it sent twice. The error is
// context.DeadlineExceeded then.
func (l *Link) Request(ctx context.Context, subject string, data []byte, work time.Duration) (*nats.Msg, error) {
	nc := l.nc.Value()
	if nc == nil {
		return nil, nats.ErrConnectionClosed
	}
	limited, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.AfterFunc(l.Patience(work), func() {
		if l.Settle(limited) == nil {
			time.Sleep(granularity) // what has arrived is read first
		}
		cancel()
	})
	defer timer.Stop()
	asked := time.Now()
	m, err := nc.RequestWithContext(limited, subject, data)
	switch {
	case err == nil:
		l.Observe(time.Since(asked))
	case limited.Err() != nil && ctx.Err() == nil:
		return nil, context.DeadlineExceeded
	}
	return m, err
}

// longestProbe bounds a probe. A connection that answers no PING for so long is given up before.
const longestProbe = time.Minute

// Probe measures the way by a PING, beside the caller; one at a time.
func (l *Link) Probe() {
	l.mu.Lock()
	defer l.mu.Unlock()
	nc := l.nc.Value()
	if nc == nil || !l.probedAt.IsZero() || !nc.IsConnected() {
		return
	}
	l.probedAt = time.Now()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), longestProbe)
		defer cancel()
		err := nc.FlushWithContext(ctx)
		l.mu.Lock()
		defer l.mu.Unlock()
		if err == nil {
			l.estimator.Observe(time.Since(l.probedAt))
		}
		l.probedAt = time.Time{}
	}()
}
