package testbed

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Link is what the way to a server is like. The zero value passes on at once.
type Link struct {
	Delay time.Duration // each way: a round trip takes twice that
	Rate  int           // bytes a second each way, over all connections; 0: as they come
}

// Relay passes connections on to a server, as slowly as its link says, until it is cut: what a network does
// to one client alone. It is safe for concurrent use.
type Relay struct {
	listener net.Listener
	target   string
	isCut    atomic.Bool
	work     sync.WaitGroup
	ended    context.Context
	end      context.CancelFunc

	mu      sync.Mutex
	link    Link
	up      *rate.Limiter // nil: no limit
	down    *rate.Limiter
	open    map[net.Conn]bool
	stalled chan struct{} // nil: it flows; closed when it does again
	lost    atomic.Bool   // what is sent to the server goes nowhere
}

// chunkBytes is how much a relay passes on at once.
const chunkBytes = 16 << 10

// NewRelay listens on loopback for a server at url, which need not be there yet. Close ends it.
func NewRelay(url string, link Link) (*Relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Relay{listener: l, target: strings.TrimPrefix(url, "nats://"), open: map[net.Conn]bool{}}
	r.ended, r.end = context.WithCancel(context.Background())
	r.SetLink(link)
	r.work.Go(r.accept)
	return r, nil
}

// URL is where clients connect.
func (r *Relay) URL() string { return "nats://" + r.listener.Addr().String() }

// SetLink changes what the link is like, for connections that are open too.
func (r *Relay) SetLink(link Link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.link, r.up, r.down = link, nil, nil
	if link.Rate > 0 {
		r.up, r.down = rate.NewLimiter(rate.Limit(link.Rate), chunkBytes), rate.NewLimiter(rate.Limit(link.Rate), chunkBytes)
	}
}

// Close closes every connection and ends the relay.
func (r *Relay) Close() {
	_ = r.listener.Close()
	r.end()
	r.Cut()
	r.Flow()
	r.work.Wait()
}

func (r *Relay) accept() {
	for {
		in, err := r.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", r.target)
		if err != nil || !r.keep(in, out) {
			_ = in.Close()
			if out != nil {
				_ = out.Close()
			}
			continue
		}
		r.work.Go(func() { r.pass(out, in, true) })
		r.work.Go(func() { r.pass(in, out, false) })
	}
}

// chunk is what was read, and when it arrives.
type chunk struct {
	data []byte
	due  time.Time
}

// pass passes on what one side sends until either is closed. What was sent before one side closed arrives.
func (r *Relay) pass(to, from net.Conn, up bool) {
	onTheWay := make(chan chunk, 4096)
	r.work.Go(func() {
		defer func() { _, _ = to.Close(), from.Close() }()
		for c := range onTheWay {
			r.await(c.due)
			if up && r.lost.Load() {
				continue
			}
			if _, err := to.Write(c.data); err != nil {
				_ = from.Close()
				for range onTheWay { // until the reader has seen that
				}
				return
			}
		}
	})
	defer close(onTheWay)
	for {
		b := make([]byte, chunkBytes)
		n, err := from.Read(b)
		if n > 0 {
			delay, limit := r.way(up)
			if limit != nil && limit.WaitN(r.ended, n) != nil {
				return
			}
			onTheWay <- chunk{b[:n], time.Now().Add(delay)}
		}
		if err != nil {
			return
		}
	}
}

func (r *Relay) way(up bool) (time.Duration, *rate.Limiter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if up {
		return r.link.Delay, r.up
	}
	return r.link.Delay, r.down
}

// await waits until something arrives: not before it is due, nor while the relay is stalled.
func (r *Relay) await(due time.Time) {
	if wait := time.Until(due); wait > 0 {
		select {
		case <-time.After(wait):
		case <-r.ended.Done():
		}
	}
	r.mu.Lock()
	stalled := r.stalled
	r.mu.Unlock()
	if stalled != nil {
		<-stalled
	}
}

// Stall lets nothing through until Flow, with all connections open: what was sent meanwhile arrives then.
func (r *Relay) Stall() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stalled == nil {
		r.stalled = make(chan struct{})
	}
}

// Swallow takes what is sent to the server and passes nothing on, as a network does that was cut without
// either side being told. A cut ends it.
func (r *Relay) Swallow() { r.lost.Store(true) }

// Flow ends a stall.
func (r *Relay) Flow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stalled != nil {
		close(r.stalled)
		r.stalled = nil
	}
}

func (r *Relay) keep(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		r.open[c] = true
	}
	return !r.isCut.Load()
}

// Cut closes every connection and lets none through until Mend.
func (r *Relay) Cut() {
	r.isCut.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		_ = c.Close()
	}
	clear(r.open)
	r.lost.Store(false)
}

// Mend lets connections through again.
func (r *Relay) Mend() { r.isCut.Store(false) }
