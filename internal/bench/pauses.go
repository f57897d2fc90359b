package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/backoff"
)

// publisher appends events one after the other, each until it is acknowledged: it retries with the same
// message id, which JetStream stores once.
type publisher struct {
	w     *writer
	js    jetstream.JetStream
	every time.Duration

	mu    sync.Mutex
	acked []time.Time // by number: when the event was acknowledged
}

const (
	// publishEvery is failover's interval, which bounds how exactly a pause is seen from below.
	publishEvery = 2 * time.Millisecond
	// publishPatience is how long an acknowledgement is waited for: what was on its way to a killed server
	// has none.
	publishPatience = 250 * time.Millisecond
	publishAgain    = 10 * time.Millisecond
)

// run publishes until ctx ends, and then until the last event is acknowledged.
func (p *publisher) run(ctx context.Context) error {
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		m := p.w.next()
		for began := time.Now(); ; {
			attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishPatience)
			_, err := p.js.PublishMsg(attempt, m, jetstream.WithRetryAttempts(0))
			cancel()
			if err == nil {
				break
			}
			if time.Since(began) > time.Minute {
				return fmt.Errorf("nothing could be published for a minute: %w", err)
			}
			if err := backoff.Sleep(context.WithoutCancel(ctx), publishAgain); err != nil {
				return err
			}
		}
		p.mu.Lock()
		p.acked = append(p.acked, time.Now())
		p.mu.Unlock()
	}
}

// count is how many are acknowledged.
func (p *publisher) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.acked)
}

func (p *publisher) longest(from time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return longestPause(p.acked, from)
}

// longestPause is the longest time between two events of which the later came after from.
func longestPause(at []time.Time, from time.Time) (longest time.Duration) {
	for i := len(at) - 1; i > 0 && at[i].After(from); i-- {
		longest = max(longest, at[i].Sub(at[i-1]))
	}
	return longest
}

// longestBeyond is the longest of the pauses in at, each less the longest of those in other that overlap
// it. What holds up both at once is not counted, and what holds up other at another time is no excuse.
func longestBeyond(at, other []time.Time, from time.Time) (longest time.Duration) {
	for i := len(at) - 1; i > 0 && at[i].After(from); i-- {
		began, ended := at[i-1], at[i]
		if ended.Sub(began) <= longest {
			continue
		}
		// From the first of other that ends after the pause began, to the first that ends after it ended.
		k := max(1, sort.Search(len(other), func(k int) bool { return other[k].After(began) }))
		var excuse time.Duration
		for ; k < len(other) && other[k-1].Before(ended); k++ {
			excuse = max(excuse, other[k].Sub(other[k-1]))
		}
		longest = max(longest, ended.Sub(began)-excuse)
	}
	return longest
}

// arrivals are what a subscriber got.
type arrivals struct {
	name string

	mu      sync.Mutex
	at      []time.Time // of each first arrival
	times   []int       // by number: how often it came
	highest int
	late    int // came first after a later one
	odd     int // can't be read
}

func newArrivals(name string) *arrivals { return &arrivals{name: name, highest: -1} }

func (a *arrivals) got(data []byte) {
	now := time.Now()
	n, err := numberOf(data)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil || n < 0 {
		a.odd++
		return
	}
	for len(a.times) <= n {
		a.times = append(a.times, 0)
	}
	if a.times[n]++; a.times[n] > 1 {
		return
	}
	if n < a.highest {
		a.late++
	}
	a.highest = max(a.highest, n)
	a.at = append(a.at, now)
}

// has reports whether the event of that number came.
func (a *arrivals) has(n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return n < len(a.times) && a.times[n] > 0
}

// reached reports whether an event of that number or a later one came.
func (a *arrivals) reached(n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.highest >= n
}

// beyond is the longest pause after from, beyond what the publisher had at that time.
func (a *arrivals) beyond(p *publisher, from time.Time) time.Duration {
	p.mu.Lock()
	acked := slices.Clone(p.acked)
	p.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	return longestBeyond(a.at, acked, from)
}

// account is how many events of those from first to before end did not come, came more than once, or after
// a later one.
type account struct{ lost, twice, late int }

func (a *arrivals) account(first, end int) (c account) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.late = a.late
	for n := first; n < end; n++ {
		switch {
		case n >= len(a.times) || a.times[n] == 0:
			c.lost++
		case a.times[n] > 1:
			c.twice++
		}
	}
	return c
}

// errNotAll says that some did not get what they should have; the account tells.
var errNotAll = errors.New("not everything arrived in time")

// until waits until done says so; what takes longer than most is errNotAll.
func until(ctx context.Context, most time.Duration, done func() bool) error {
	limited, cancel := context.WithTimeoutCause(ctx, most, errNotAll)
	defer cancel()
	return testbed.Until(limited, done)
}
