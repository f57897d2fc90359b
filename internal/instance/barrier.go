package instance

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

// barrierPatience is how long the proxies wait at the most: what can't be read must not keep them from
// trying.
const barrierPatience = 5 * time.Second

// barrier calls begin once all is known, or when its patience has ended.
type barrier struct {
	begin func(level bool)

	mu    sync.Mutex
	known int
	timer *time.Timer
}

func newBarrier(begin func(level bool)) *barrier {
	b := &barrier{begin: begin}
	b.timer = time.AfterFunc(barrierPatience, func() {
		b.mu.Lock()
		level := b.known&bucketLevel != 0
		b.mu.Unlock()
		begin(level)
	})
	return b
}

func (b *barrier) pass(what int) {
	b.mu.Lock()
	b.known |= what
	all := b.known == everything
	b.mu.Unlock()
	if all && b.timer.Stop() {
		b.begin(true)
	}
}

func (b *barrier) stop() { b.timer.Stop() }
