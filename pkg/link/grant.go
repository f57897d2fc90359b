package link

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Grant is leave to have so many bytes under way, until they have arrived, or the context that it was taken
// with ends.
type Grant struct {
	Bytes  int
	link   *Link
	asked  time.Time
	once   sync.Once
	forget func() bool // the context
}

// Take waits for a grant of up to want bytes. What it is for is to be asked for at once.
func (l *Link) Take(ctx context.Context, want int) (*Grant, error) {
	for {
		g, freed := l.take(ctx, want)
		if g != nil {
			return g, nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// TryTake is Take that does not wait; nil: there is no room.
func (l *Link) TryTake(ctx context.Context, want int) *Grant {
	g, _ := l.take(ctx, want)
	return g
}

func (l *Link) take(ctx context.Context, want int) (*Grant, <-chan struct{}) {
	losses := uint64(0)
	if nc := l.nc.Value(); nc != nil {
		losses = nc.Stats().Reconnects
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if losses > l.losses {
		l.losses = losses
		l.budget.Lost()
	}
	if bytes := l.budget.Grant(want); bytes > 0 {
		g := &Grant{Bytes: bytes, link: l, asked: time.Now()}
		g.forget = context.AfterFunc(ctx, g.abandon)
		return g, nil
	}
	if l.freed == nil {
		l.freed = make(chan struct{})
	}
	return nil, l.freed
}

// Arrived says that all that was asked for has arrived, and how many bytes that was.
func (g *Grant) Arrived(bytes int) {
	g.once.Do(func() {
		g.forget()
		took := time.Since(g.asked)
		g.link.mu.Lock()
		g.link.budget.Judge(bytes, took, g.link.estimator.Least())
		g.link.mu.Unlock()
		g.giveBack()
	})
}

// Abandon says that nobody waits any more for what was asked for. It may be on its way, and counts until it
// has arrived: a PING is answered behind it.
func (g *Grant) Abandon() {
	g.forget()
	g.abandon()
}

// abandon is Abandon when the context ends, which may be before forget is known.
func (g *Grant) abandon() {
	g.once.Do(func() {
		go func() {
			_ = g.link.Settle(context.Background()) // without a connection nothing is on its way
			g.giveBack()
		}()
	})
}

func (g *Grant) giveBack() {
	g.link.mu.Lock()
	defer g.link.mu.Unlock()
	g.link.budget.Return(g.Bytes)
	if g.link.freed != nil {
		close(g.link.freed)
		g.link.freed = nil
	}
}

// Settle waits until all has arrived that the server had sent before it answers a PING. What was asked for
// long before and is not there then will not come, or its way is longer than the connection's.
func (l *Link) Settle(ctx context.Context) error {
	nc := l.nc.Value()
	if nc == nil {
		return nats.ErrConnectionClosed
	}
	ctx, cancel := context.WithTimeout(ctx, longestProbe)
	defer cancel()
	asked := time.Now()
	err := nc.FlushWithContext(ctx)
	if err == nil {
		l.Observe(time.Since(asked))
	}
	return err
}

// Carries is how many bytes may be under way on the link, of all that is asked for.
func (l *Link) Carries() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.budget.Size()
}
