package service

import (
	"sync"
	"time"
)

// What the proxies wait for before they begin.
const (
	bucketLevel  = 1 << iota // all that the registry's bucket holds was shown
	membersKnown             // who lives is known
	sessionOpen              // the others can see that this instance lives
	everything   = bucketLevel | membersKnown | sessionOpen
)

// gate calls begin once all is known, or when patience has ended: what can't be read must not keep the proxies from trying.
type gate struct {
	begin func(level bool)

	mu    sync.Mutex
	known int
	timer *time.Timer
}

func newGate(patience time.Duration, begin func(level bool)) *gate {
	g := &gate{begin: begin}
	g.timer = time.AfterFunc(patience, func() {
		g.mu.Lock()
		level := g.known&bucketLevel != 0
		g.mu.Unlock()
		begin(level)
	})
	return g
}

func (g *gate) open(what int) {
	g.mu.Lock()
	g.known |= what
	all := g.known == everything
	g.mu.Unlock()
	if all && g.timer.Stop() {
		g.begin(true)
	}
}

func (g *gate) stop() { g.timer.Stop() }
