//go:build unix

package integration

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/exesdb/subproxy/test/harness"
)

// dropped is what a subscriber answers that drops an event, and lets the proxy take it for accepted.
const dropped = "+ACK dropped"

const (
	// sessionTTL is that of the instances under chaos; one that is silent for so long and the grace of a
	// second is gone.
	sessionTTL = time.Second
	longAway   = sessionTTL + time.Second + 300*time.Millisecond
)

// instancesSchedule is made from a seed alone.
type instancesSchedule struct {
	seed    uint64
	nodes   int
	names   []string                 // of the instances
	weights map[string]int           // by instance
	first   int                      // how many are there at the beginning
	knows   map[string][]string      // by subscription: which instances are configured with it at the beginning
	delays  map[string]time.Duration // by subscription: what its subscriber takes for an event
	fences  map[string]string        // by subscription: what its subscriber answers to an older incarnation
	steps   []step
	absent  map[string]bool // these are not started again at the end
	undo    bool            // instances that drain no longer do at the end
}

func (s *instancesSchedule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d nodes; ", s.nodes)
	for _, name := range s.names {
		fmt.Fprintf(&b, "%s has weight %d; ", name, s.weights[name])
	}
	fmt.Fprintf(&b, "%d at first", s.first)
	for sub, names := range s.knows {
		if len(names) < len(s.names) {
			fmt.Fprintf(&b, "; %s is known to %s", sub, strings.Join(names, ", "))
		}
	}
	return b.String()
}

// instancesReaders are subscriptions to share: each subscriber of requests is fenced.
func instancesReaders() (readers []*reader) {
	for i := range 6 {
		stream := fmt.Sprintf("plant-%d", i%4)
		readers = append(readers, &reader{name: fmt.Sprintf("request-%d", i), typ: "by_stream", selector: stream, sink: "request", wants: func(e *harness.Appended) bool { return e.Stream == stream }})
	}
	grown := func(e *harness.Appended) bool { return e.Type == "grown:v1" }
	return append(readers,
		&reader{name: "request-all", typ: "by_stream", selector: "$all", sink: "request", wants: harness.Anything},
		&reader{name: "request-some", typ: "by_event_type", selector: "grown:v1", sink: "request", wants: grown}, // in some schedules known to some
		&reader{name: "stream-all", typ: "by_stream", selector: "$all", sink: "stream", wants: harness.Anything},
		&reader{name: "stream-type", typ: "by_event_type", selector: "grown:v1", sink: "stream", wants: grown},
		&reader{name: "stream-some", typ: "by_event_type", selector: "grown:v1", sink: "stream", wants: grown},
	)
}

// makeInstancesSchedule makes faults at random times, each with what ends it.
func makeInstancesSchedule(seed uint64, readers []*reader) *instancesSchedule {
	rng := rand.New(rand.NewPCG(seed, 1))
	s := &instancesSchedule{seed: seed, weights: map[string]int{}, knows: map[string][]string{}, fences: map[string]string{}, delays: map[string]time.Duration{}, absent: map[string]bool{}, undo: rng.IntN(2) == 0}
	if s.nodes = 1; rng.IntN(6) == 0 {
		s.nodes = 3
	}
	for i := range 2 + rng.IntN(3) {
		name := fmt.Sprintf("i%d", i+1)
		s.names = append(s.names, name)
		s.weights[name] = 1
		if rng.IntN(4) == 0 {
			s.weights[name] = 1 + rng.IntN(4)
		}
	}
	s.first = 1 + rng.IntN(len(s.names))
	differ := rng.IntN(2) == 0
	d := &director{rng: rng, s: s, is: map[string]string{}, cut: map[string]bool{}, drains: map[string]bool{}, differ: differ}
	for _, r := range readers {
		s.knows[r.name] = slices.Clone(s.names)
		if differ && strings.HasSuffix(r.name, "-some") {
			for _, name := range s.names[1:] { // the first is there from the beginning
				if rng.IntN(2) == 0 {
					s.knows[r.name] = slices.DeleteFunc(s.knows[r.name], func(other string) bool { return other == name })
				}
			}
		}
		s.fences[r.name] = d.pick("", dropped, "-ERR superseded")
		if rng.IntN(2) == 0 { // so that events wait with an instance that something happens to
			s.delays[r.name] = time.Duration(rng.Int64N(int64(40 * time.Millisecond)))
		}
	}
	for i, name := range s.names {
		if d.is[name] = up; i >= s.first {
			d.is[name] = down
		}
	}
	for range 8 + rng.IntN(6) {
		d.now += 50*time.Millisecond + time.Duration(rng.Int64N(int64(600*time.Millisecond)))
		d.end(d.now)
		d.fault()
	}
	d.end(time.Hour)
	if rng.IntN(3) == 0 {
		d.leaveSome()
	}
	return s
}

// director makes a schedule, and knows what is the matter with each process while it does.
type director struct {
	rng    *rand.Rand
	s      *instancesSchedule
	differ bool // configurations are not all the same
	now    time.Duration
	last   time.Duration
	is     map[string]string // up, down or paused
	cut    map[string]bool
	drains map[string]bool
	ends   []ending
}

// ending is what ends a fault that lasts.
type ending struct {
	at            time.Duration
	fault, target string
}

func (d *director) pick(from ...string) string { return from[d.rng.IntN(len(from))] }

func (d *director) step(fault, target string) {
	d.s.steps = append(d.s.steps, step{after: d.now - d.last, fault: fault, target: target})
	d.last = d.now
}

// away is for how long an instance is: mostly so long that it is taken to be gone.
func (d *director) away() time.Duration {
	if d.rng.IntN(4) == 0 {
		return time.Duration(d.rng.Int64N(int64(sessionTTL)))
	}
	return longAway + time.Duration(d.rng.Int64N(int64(1200*time.Millisecond)))
}

func (d *director) until(at time.Duration, fault, target string) {
	d.ends = append(d.ends, ending{at, fault, target})
	slices.SortStableFunc(d.ends, func(a, b ending) int { return int(a.at - b.at) })
}

// end ends what is over by then.
func (d *director) end(by time.Duration) {
	for len(d.ends) > 0 && d.ends[0].at <= by {
		e := d.ends[0]
		d.ends = d.ends[1:]
		if by == time.Hour {
			d.now = max(d.now, e.at)
		}
		switch e.fault {
		case "continue":
			if d.is[e.target] == paused {
				d.is[e.target] = up
			}
		case "mend", "flow":
			d.cut[e.target] = false
		}
		d.step(e.fault, e.target)
	}
}

// spare forgets what was to end a fault of a process that is no more.
func (d *director) spare(fault, target string) {
	d.ends = slices.DeleteFunc(d.ends, func(e ending) bool { return e.fault == fault && e.target == target })
}

func (d *director) fault() {
	switch roll := d.rng.IntN(100); {
	case roll < 72:
		d.instance(d.pick(d.s.names...))
	case roll < 78:
		d.step("leader changed", "")
	case roll < 84:
		name := d.pick("emitter-1", "emitter-2")
		if slices.ContainsFunc(d.ends, func(e ending) bool { return e.target == name }) {
			return
		}
		if d.rng.IntN(2) == 0 {
			d.step("pause", name)
			d.until(d.now+d.away(), "continue", name)
		} else {
			d.step("kill", name)
			d.until(d.now+500*time.Millisecond, "start", name)
		}
	case roll < 88:
		if !slices.ContainsFunc(d.ends, func(e ending) bool { return e.fault == "start node" }) {
			node := fmt.Sprintf("n%d", 1+d.rng.IntN(d.s.nodes))
			d.step("kill node", node)
			d.until(d.now+time.Duration(d.rng.Int64N(int64(longAway))), "start node", node)
		}
	default:
		if d.differ {
			name := d.pick(d.s.names...)
			if d.is[name] == up && name != d.s.names[0] {
				d.step("reload", name+" "+d.pick("request-some", "stream-some"))
			}
		}
	}
}

// instance does something to an instance.
func (d *director) instance(name string) {
	switch d.is[name] {
	case down:
		d.is[name], d.drains[name] = up, false
		d.step("start", name)
		return
	case paused:
		switch d.rng.IntN(4) {
		case 0: // the frozen one wakes up later
			d.is[name], d.drains[name] = up, false
			d.step("replace", name)
		case 1:
			d.is[name] = down
			d.spare("continue", name)
			d.step("kill", name)
		}
		return
	}
	switch roll := d.rng.IntN(100); {
	case roll < 15:
		d.is[name] = down
		d.step("stop", name)
	case roll < 35:
		d.is[name] = down
		d.step("kill", name)
	case roll < 58:
		if slices.ContainsFunc(d.ends, func(e ending) bool { return e.fault == "continue" && e.target == name }) {
			return // one that was replaced is still frozen
		}
		d.is[name] = paused
		d.step("pause", name)
		d.until(d.now+d.away(), "continue", name)
	case roll < 82:
		if d.cut[name] {
			return
		}
		d.cut[name] = true
		if d.rng.IntN(2) == 0 {
			d.step("cut", name)
			d.until(d.now+d.away(), "mend", name)
		} else {
			d.step("stall", name)
			d.until(d.now+d.away(), "flow", name)
		}
	case roll < 94:
		d.drains[name] = !d.drains[name]
		d.step(map[bool]string{true: "drain", false: "undo drain"}[d.drains[name]], name)
	default:
		d.drains[name] = false
		d.step("replace", name)
	}
}

// leaveSome leaves instances that are down as they are, as long as somebody knows each subscription.
func (d *director) leaveSome() {
	for _, name := range d.s.names {
		if d.is[name] == down && name != d.s.names[0] {
			d.s.absent[name] = true
		}
	}
}
