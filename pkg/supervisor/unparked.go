package supervisor

import (
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/status"
)

// unparked are the store's subscriptions that an event holds up which is refused and can't be parked: the
// stream of parked events is full, say. The store's alert says so while there are any.
type unparked struct {
	held int
	due  time.Time // when the alert is raised, unless nobody is held up by then; zero: it is not to be
}

// heldUp notes whether an item is one of them.
func (al *alerter) heldUp(it *managed, held bool, now time.Time) {
	if it.unparked == held {
		return
	}
	it.unparked = held
	u := &al.unparked
	if !held {
		u.held--
		return
	}
	if u.held++; u.held == 1 && !al.standing.unparked {
		u.due = now.Add(alertWindow)
	}
}

// alertUnparked raises the alert, and takes it back.
func (al *alerter) alertUnparked(now time.Time, wake *time.Time) {
	u, a := &al.unparked, &al.standing
	switch {
	case u.held == 0 && a.unparked:
		a.unparked = false
		al.lowerStore("what subscribers refuse is parked again, or accepted", nil, now)
	case u.held == 0:
		u.due = time.Time{}
	case u.due.IsZero():
	case now.Before(u.due):
		sooner(wake, u.due)
	default:
		a.unparked, u.due = true, time.Time{}
		al.raiseUnparked(now)
	}
}

// raiseUnparked sends the alert, with the reason of one of them.
func (al *alerter) raiseUnparked(now time.Time) {
	a := &al.standing
	if a.level == "" || a.covered == 0 {
		a.level = status.Warning
	}
	for _, it := range al.items {
		if it.unparked {
			message := fmt.Sprintf("what subscribers refuse can't be parked, and holds up %d of the store's %d subscriptions", al.unparked.held, len(al.items))
			al.sendStoreAlert(status.Warning, message, it, breaker.Degraded, al.unparked.held, now)
			return
		}
	}
}
