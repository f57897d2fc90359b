// Package breaker guards registration attempts: when one may be made, how long to wait after a failure, and
// what the failures in a row mean for health.
//
// The breaker's states are gobreaker's. It trips at Settings.MaxFailures failures in a row, stays open for
// the backoff interval, then lets one probe pass. Two things gobreaker has no call for are added around it:
// its time-out is fixed when it is made, so each time it opens it is made anew with the next interval; and
// a cluster event lets a probe through at once (Probe), which is a new breaker that trips on its first
// failure.
package breaker

import (
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/exesdb/subproxy/pkg/backoff"
)

// Settings are the breaker's numbers. The zero value is not usable; the configuration has the defaults.
type Settings struct {
	MaxFailures      int           // failures in a row at which the breaker trips and health is failed
	DegradedFailures int           // failures in a row from which health is degraded
	Exponential      bool          // backoff 1 s · 2ⁿ up to MaxBackoff; else always Retry
	Retry            time.Duration // interval of a constant backoff
	MaxBackoff       time.Duration // upper bound of an exponential one
}

// State is the breaker's state, in the words of the status record.
type State string

// The states.
const (
	Closed   State = "closed"
	HalfOpen State = "half-open"
	Open     State = "open"
)

// Health is what failures in a row mean.
type Health string

// Every health a status can have. The breaker knows the first three; the others are the proxy's.
const (
	Healthy  Health = "healthy"
	Degraded Health = "degraded"
	Failed   Health = "failed"
	Standby  Health = "standby" // another instance holds the subscription
	Unknown  Health = "unknown" // nothing was attempted yet
)

// Health of a proxy after that many failures in a row.
func (s *Settings) Health(failures int) Health {
	switch {
	case failures >= s.MaxFailures:
		return Failed
	case failures >= s.DegradedFailures:
		return Degraded
	default:
		return Healthy
	}
}

// firstBackoff is the first interval of the exponential backoff.
const firstBackoff = time.Second

// Backoff is how long to wait after that many failures in a row. Jitter in [-1, 1) spreads it, within
// MaxBackoff.
func (s *Settings) Backoff(failures int, jitter float64) time.Duration {
	wait := s.Retry
	if s.Exponential {
		wait = backoff.Backoff{First: firstBackoff, Max: s.MaxBackoff}.After(failures)
	}
	return min(backoff.Spread(wait, jitter), max(s.MaxBackoff, s.Retry))
}

// Breaker is one proxy's circuit breaker. The zero value is closed and takes no memory beyond itself:
// gobreaker's is made with the first failure and dropped with the next success, since most of 100,000
// proxies never fail. It is owned by one goroutine.
type Breaker struct {
	cb      *gobreaker.TwoStepCircuitBreaker[struct{}]
	done    func(error) // of the attempt under way
	probing bool        // cb stands in for a half-open breaker: see Probe
}

var errAttempt = errors.New("attempt failed")

// Allow admits an attempt, or says no. An attempt admitted ends in Success or Failure.
func (b *Breaker) Allow() bool {
	if b.cb == nil {
		return true
	}
	done, err := b.cb.Allow()
	if err != nil {
		return false
	}
	b.done = done
	return true
}

// Success ends an attempt: the breaker closes.
func (b *Breaker) Success() {
	if b.done != nil {
		b.done(nil)
	}
	*b = Breaker{}
}

// Failure ends an attempt. Where it opens the breaker, it stays open for wait.
func (b *Breaker) Failure(s *Settings, wait time.Duration) {
	if b.cb == nil {
		b.cb = newBreaker(uint32(s.MaxFailures), wait)
	}
	if b.done == nil {
		// The first failure of all: its admission went without gobreaker.
		b.done, _ = b.cb.Allow()
	}
	b.done(errAttempt)
	b.done = nil
	if b.cb.State() == gobreaker.StateOpen {
		b.trip(wait)
	}
}

// trip makes the open breaker anew, so that its time-out is this interval.
func (b *Breaker) trip(wait time.Duration) {
	b.cb, b.probing = newBreaker(1, wait), false
	if done, err := b.cb.Allow(); err == nil {
		done(errAttempt)
	}
}

// Probe lets one attempt through an open breaker before its time is over, because there is news that the
// cluster is alive. A breaker that is not open is left alone.
func (b *Breaker) Probe() {
	if b.cb != nil && b.cb.State() == gobreaker.StateOpen {
		b.cb, b.probing = newBreaker(1, time.Hour), true
	}
}

// State of the breaker now.
func (b *Breaker) State() State {
	if b.cb == nil {
		return Closed
	}
	switch b.cb.State() {
	case gobreaker.StateOpen:
		return Open
	case gobreaker.StateHalfOpen:
		return HalfOpen
	default:
		if b.probing {
			return HalfOpen
		}
		return Closed
	}
}

// newBreaker trips at that many failures in a row and then stays open a millisecond less than wait, so that
// an attempt that is due exactly then is not refused for the microseconds by which the two clocks were read
// apart.
func newBreaker(failures uint32, wait time.Duration) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1,
		Timeout:     max(wait-time.Millisecond, time.Nanosecond),
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= failures },
	})
}
