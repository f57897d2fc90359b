package supervisor

import (
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/status"
)

// actions are those of operators that wait for attempts.
type actions struct {
	*roster
	reporter *reporter
	begin    func(work) // has work for an operator done
	open     []*action
}

// act applies an operator's input, and replies when the attempts that it caused have ended; of a proxy that
// has not started yet, when its first one has.
func (l *loop) act(name string, in proxy.Input, reply chan<- []status.Status) {
	items := l.held(name)
	a := &action{waiting: map[*managed]struct{}{}, items: items, filling: true, reply: reply}
	l.actions.open = append(l.actions.open, a)
	l.begin(func(now time.Time, left *int) bool {
		for ; len(items) > 0; items = items[1:] {
			if *left <= 0 {
				return true
			}
			*left--
			l.actOn(a, items[0], name != "", in, now)
		}
		a.filling = false
		l.actions.closeSettled()
		return false
	})
}

// actOn applies an operator's input to one proxy. One that was removed meanwhile is not waited for.
func (l *loop) actOn(a *action, it *managed, first bool, in proxy.Input, now time.Time) {
	if it.removed {
		return
	}
	if first {
		l.dispatcher.prioritize(it)
	}
	if in.SeenAt = now; in.Kind == proxy.Restart {
		l.restart(it, now)
	} else {
		l.stepper.step(it, in, now)
	}
	if p := &it.proxy; p.Attempt.UnderWay || it.restarting || !p.Started && !p.Stopped {
		a.waiting[it] = struct{}{}
	} else {
		it.asked = false
	}
}

// begin has work for an operator done, a part a turn.
func (l *loop) begin(w work) { l.urgent = append(l.urgent, w) }

// settle takes an item whose attempts have ended off the waiting lists.
func (as *actions) settle(it *managed) {
	if len(as.open) == 0 || (it.proxy.Attempt.UnderWay || it.restarting) && !it.removed {
		return
	}
	for _, a := range as.open {
		delete(a.waiting, it)
	}
	as.closeSettled()
	it.asked = false
}

// closeSettled answers those that nothing is waited for any more.
func (as *actions) closeSettled() {
	as.open = slices.DeleteFunc(as.open, func(a *action) bool {
		settled := !a.filling && len(a.waiting) == 0
		if settled {
			as.answer(a)
		}
		return settled
	})
}

// answer tells the statuses of an action's proxies, those included that were removed meanwhile.
func (as *actions) answer(a *action) {
	as.begin(as.reporter.tell(a.items, func(*managed) bool { return true }, func(statuses []status.Status) { a.reply <- statuses }))
}
