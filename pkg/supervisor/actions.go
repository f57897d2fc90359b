package supervisor

import (
	"time"

	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/status"
)

// actions are those of operators that wait for attempts.
type actions struct {
	*roster
	reporter *reporter
	open     []*action
}

// act applies an operator's input, and replies when the attempts that it caused have ended; of a proxy that has not
// started yet, when its first one has.
func (l *loop) act(name string, in proxy.Input, reply chan<- []status.Status, now time.Time) {
	in.SeenAt = now
	a := &action{waiting: map[*managed]struct{}{}, items: l.held(name), reply: reply}
	for _, it := range a.items {
		if name != "" {
			l.dispatcher.prioritize(it)
		}
		if in.Kind == proxy.Restart {
			l.restart(it, now)
		} else {
			l.step(it, in, now)
		}
		if p := &it.proxy; p.Attempting || it.restarting || !p.Started && !p.Stopped {
			a.waiting[it] = struct{}{}
		} else {
			it.asked = false
		}
	}
	if len(a.waiting) == 0 {
		l.actions.answer(a, now)
		return
	}
	l.actions.open = append(l.actions.open, a)
}

// settle takes an item whose attempts have ended off the waiting lists.
func (as *actions) settle(it *managed, now time.Time) {
	if len(as.open) == 0 || (it.proxy.Attempting || it.restarting) && !it.removed {
		return
	}
	open := as.open[:0]
	for _, a := range as.open {
		if delete(a.waiting, it); len(a.waiting) == 0 {
			as.answer(a, now)
			continue
		}
		open = append(open, a)
	}
	as.open, it.asked = open, false
}

func (as *actions) answer(a *action, now time.Time) {
	statuses := make([]status.Status, 0, len(a.items))
	for _, it := range a.items {
		statuses = append(statuses, as.reporter.status(it, now))
	}
	a.reply <- statuses
}
