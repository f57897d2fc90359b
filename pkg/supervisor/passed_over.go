package supervisor

import (
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/status"
)

// passedOverFor is how long messages that were no events are told of, after the last of them.
const passedOverFor = time.Hour

// passedOver is what the store's emitters told last of messages that are no events. It stands for its time,
// though another emitter leads by then, which knows of none.
type passedOver struct{ last *event.PassedOver }

func (p *passedOver) note(told *event.PassedOver) {
	if told != nil {
		p.last = told
	}
}

// standing is what is to be told of; nil: nothing.
func (p *passedOver) standing(now time.Time) *event.PassedOver {
	if p.last == nil || now.Sub(p.last.At) >= passedOverFor {
		return nil
	}
	return p.last
}

// alertPassedOver raises the store's alert for messages that are no events, or takes that reason back.
func (al *alerter) alertPassedOver(now time.Time) {
	a := &al.standing
	found := al.watch.passedOver.standing(now)
	if !al.holdsAny() {
		found = nil
	}
	if (found != nil) == a.passedOver {
		return
	}
	a.passedOver = found != nil
	for _, it := range al.items {
		if it.endpoint != nil {
			al.reporter.mark(it, proxy.Soon)
		}
	}
	if found == nil {
		al.lowerStore("no message of the store's stream was passed over any more", nil, now)
		return
	}
	delete(a.inherited, al.owner.Name) // this one is in its place
	if a.level == "" {
		a.level = status.Warning
	}
	al.raisePassedOver(now)
}

func (al *alerter) raisePassedOver(now time.Time) {
	al.sendStoreAlert(status.Warning, al.watch.passedOver.last.String(), nil, breaker.Healthy, al.holds(), now)
}
