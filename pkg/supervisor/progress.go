package supervisor

import (
	"maps"
	"time"

	"github.com/exesdb/subproxy/pkg/event"
)

// progress is what a store's emitter told last of how far its subscriptions are.
type progress struct {
	at       time.Time // when it was told; zero: never
	by       string    // the emitter
	last     uint64    // sequence of the store's last event
	hindered string    // why events come late or not at all; empty: nothing is known
	trouble  string    // why nobody gets events of the store; empty: nothing is in the way
	behind   map[string]uint64
	waiting  map[string]string    // by subscription, why the emitter sends it nothing
	gaps     map[string]event.Gap // what subscriptions lost

	parts *progress // of which some parts came; nil: none
	part  int       // the last of them
	of    int       // how many it has
}

// add adds one message, and reports whether it completes a progress. Of one that lacks a part
// nothing is taken over: who is not named has everything.
func (p *progress) add(m *event.Progress, now time.Time) bool {
	if m.Part <= 1 {
		p.parts = &progress{last: m.LastSequence, behind: map[string]uint64{}, waiting: map[string]string{}, gaps: map[string]event.Gap{}}
		p.of = m.Parts
	} else if p.parts == nil || m.Part != p.part+1 || m.Parts != p.of || m.LastSequence != p.parts.last {
		p.parts = nil
		return false
	}
	p.part = m.Part
	for name, lag := range m.Behind {
		p.parts.behind[name] = lag
	}
	for name, reason := range m.Waiting {
		p.parts.waiting[name] = reason
	}
	maps.Copy(p.parts.gaps, m.Gaps)
	if m.Part < m.Parts {
		return false
	}
	*p = progress{at: now, by: m.Emitter, last: m.LastSequence, trouble: m.Trouble, hindered: m.Hindered, behind: p.parts.behind, waiting: p.parts.waiting, gaps: p.parts.gaps}
	return true
}

// position is the sequence up to which a subscription has all that it wants, as the emitter knows.
func (p *progress) position(name string) uint64 { return p.last - min(p.behind[name], p.last) }
