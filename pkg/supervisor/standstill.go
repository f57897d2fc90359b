package supervisor

import "time"

// standstill knows which subscriptions are behind, and since when they have not moved. A subscription moves
// when its subscriber accepts an event, and when the emitter finds that it does not want one.
type standstill map[string]mark // by name; only those that are behind

// mark is where a subscription stands.
type mark struct {
	position uint64 // of the store: it has all up to here
	accepted uint64 // events, in this start of its proxy
	since    time.Time
}

// stands notes where a subscription that is behind is now.
func (s *standstill) stands(name string, position, accepted uint64, now time.Time) {
	if *s == nil {
		*s = standstill{}
	}
	m, known := (*s)[name]
	if !known || m.position != position || m.accepted != accepted {
		m = mark{position: position, accepted: accepted, since: now}
	}
	(*s)[name] = m
}

// keep forgets those that are not behind any more.
func (s standstill) keep(behind map[string]uint64) {
	for name := range s {
		if behind[name] == 0 {
			delete(s, name)
		}
	}
}
