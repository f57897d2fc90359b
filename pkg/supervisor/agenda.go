package supervisor

import "time"

// stepsPerTurn is how many proxies a turn steps at the most. A step takes a few microseconds, so that what
// an operator asks for while 100,000 proxies are stepped is answered within a millisecond, and not when all
// are.
const stepsPerTurn = 64

// work does as much as left allows, which it lowers by one for each proxy, and reports whether there is
// more to do.
type work func(now time.Time, left *int) (more bool)

// once is work that is not divided.
func once(do func(now time.Time)) work {
	return func(now time.Time, _ *int) bool {
		do(now)
		return false
	}
}

// agenda is work that is done in order, over as many turns as it takes.
type agenda struct {
	pending []work
	added   []work // by the work that is under way
}

// add adds work to be done before what is pending, and after what was added before by the work that is
// under way.
func (a *agenda) add(w ...work) { a.added = append(a.added, w...) }

// done reports whether nothing is left.
func (a *agenda) done() bool { return len(a.pending) == 0 }

// steps is work in n steps. What a step adds is done before the next one.
func (a *agenda) steps(n int, step func(i int, now time.Time)) work {
	next := 0
	return func(now time.Time, left *int) bool {
		for next < n && *left > 0 && len(a.added) == 0 {
			next++
			*left--
			step(next-1, now)
		}
		return next < n
	}
}

// run does what left allows.
func (a *agenda) run(now time.Time, left int) {
	for len(a.pending) > 0 && left > 0 {
		rest := a.pending
		if !a.pending[0](now, &left) {
			rest[0] = nil
			rest = rest[1:]
		}
		if len(a.added) > 0 {
			rest = append(a.added, rest...)
			a.added = nil
		}
		a.pending = rest
	}
}
