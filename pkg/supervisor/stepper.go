package supervisor

import (
	"context"
	"log/slog"
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/rebalance"
	"github.com/exesdb/subproxy/pkg/registration"
)

// dueInterval is the least time between two looks at what is due by time. Jitter spreads timers evenly, and
// thousands that fall due one by one would each be a batch of its own, at several times the cost.
const dueInterval = 50 * time.Millisecond

// stepper steps proxies, and sees to the effects: attempts, releases, endpoints, alerts and statuses. It
// belongs to the loop's goroutine.
type stepper struct {
	*roster
	holder     *holder
	dispatcher *dispatcher
	reporter   *reporter
	alerter    *alerter

	due      dueHeap
	dueAgain time.Time // not before it is looked again
	lost     losses    // in this round
}

// stepDue steps what is due by time.
func (t *stepper) stepDue() work {
	begun := false
	return func(now time.Time, left *int) bool {
		if !begun {
			next := t.due.next()
			if next.IsZero() || now.Before(next) || now.Before(t.dueAgain) {
				return false
			}
			begun, t.dueAgain = true, now.Add(dueInterval)
		}
		for ; *left > 0; *left-- {
			it := t.due.pop(now)
			if it == nil {
				return false
			}
			t.step(it, proxy.Input{Kind: proxy.Due}, now)
		}
		return true
	}
}

// wakeAtDue makes sure that the next round is no later than something is due.
func (t *stepper) wakeAtDue(wake *time.Time) {
	next := t.due.next()
	if next.IsZero() {
		return
	}
	if next.Before(t.dueAgain) {
		next = t.dueAgain
	}
	sooner(wake, next)
}

// step applies an input to a proxy and sees to its effects.
func (t *stepper) step(it *managed, in proxy.Input, now time.Time) {
	in.Jitter = backoff.Jitter()
	stoodBy := it.proxy.Standby
	fx := it.proxy.Step(in, now, t.rules())
	if fx.Attempt {
		it.inEvent = it.proxy.Attempt.Cause.IsEvent()
		if it.inEvent {
			t.dispatcher.rounds++
		}
		t.dispatcher.admit(it)
	}
	from := it.endpoint
	t.holder.sync(it)
	if fx.Release {
		t.dispatcher.release(it, from, in.Kind == proxy.Unassigned, now)
	}
	if fx.Superseded != nil {
		t.superseded(it, *fx.Superseded, now)
	}
	if fx.Entered != "" {
		if t.alerts != nil && fx.Entered == breaker.Healthy && t.alerts.Inherited(t.store, it.proxy.Name) {
			it.alone = true // another run raised it, and is gone
		}
		t.alerter.entered(it, fx.Entered, now)
	}
	t.reporter.mark(it, fx.Publish)
	switch p := &it.proxy; {
	case it.removed:
	case p.Stopped:
		t.transfers.Note(rebalance.Input{Kind: rebalance.Removed, Key: it.key}, now)
	case p.Standby:
		t.noteStandby(it, now)
	case stoodBy:
		t.transfers.Note(rebalance.Input{Kind: rebalance.Held, Key: it.key}, now)
	}
	if !it.proxy.Attempt.UnderWay {
		t.due.schedule(it)
	}
}

// losses are the subscriptions that other instances took over.
type losses struct {
	n     int
	first string             // its name
	by    registration.Owner // who took that; it may be gone again by now
}

// superseded tells the supervisor where it is another run of this instance's name that took over, which
// says so itself. Where instances share, that is for their sessions to tell: the registration may be of the
// earlier run, which was stopped, goes on and has not heard yet.
func (t *stepper) superseded(it *managed, by registration.Owner, now time.Time) {
	t.metrics.Superseded.Inc()
	switch {
	case by.Name != t.owner.Name || by.ID == t.owner.ID:
	case t.members.Load() == nil:
		t.retire(by)
		return
	default:
		t.transfers.Note(rebalance.Input{Kind: rebalance.RivalSeen}, now)
	}
	if t.lost.n++; t.lost.n == 1 {
		t.lost.first, t.lost.by = it.proxy.Name, by
	}
}

// tellSuperseded logs one line for all that were superseded in a turn.
func (t *stepper) tellSuperseded() {
	if t.lost.n == 0 {
		return
	}
	level := slog.LevelWarn
	if t.transfers.Shares() {
		level = slog.LevelInfo // they share
	}
	t.log.Log(context.Background(), level, "another instance holds subscriptions now; standing by", "subscriptions", t.lost.n, "first", t.lost.first, "by", t.lost.by.Name, "id", t.lost.by.ID)
	t.lost = losses{}
}
