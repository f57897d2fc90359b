//go:build unix

package harness

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Relay passes connections on to a server until it is cut: what a network does to one instance alone.
type Relay struct {
	listener net.Listener
	target   string
	isCut    atomic.Bool
	work     sync.WaitGroup

	mu      sync.Mutex
	open    map[net.Conn]bool
	stalled chan struct{} // nil: it flows; closed when it does again
	lost    atomic.Bool   // what is sent to the server goes nowhere
}

// NewRelay is a way to a server that can be cut.
func NewRelay(t testing.TB, url string) *Relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{listener: l, target: strings.TrimPrefix(url, "nats://"), open: map[net.Conn]bool{}}
	r.work.Go(r.accept)
	t.Cleanup(func() {
		_ = l.Close()
		r.Cut()
		r.Flow()
		r.work.Wait()
	})
	return r
}

// URL is where clients connect.
func (r *Relay) URL() string { return "nats://" + r.listener.Addr().String() }

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
		for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
			r.work.Go(func() {
				r.pass(pair[0], pair[1])
				_, _ = pair[0].Close(), pair[1].Close()
			})
		}
	}
}

// pass passes on what one side sends until either is closed, and holds it back while the relay is stalled.
func (r *Relay) pass(to, from net.Conn) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		r.mu.Lock()
		stalled := r.stalled
		r.mu.Unlock()
		if stalled != nil {
			<-stalled
		}
		if r.lost.Load() && to.RemoteAddr().String() == r.target {
			n = 0
		}
		if _, failed := to.Write(b[:n]); failed != nil || err != nil {
			return
		}
	}
}

// Stall lets nothing through until flow, with all connections open: what was sent meanwhile arrives then.
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

// Cut closes every connection and lets none through until mend.
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
