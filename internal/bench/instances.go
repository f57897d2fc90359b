package bench

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/backoff"
)

// InstancesOptions say what Instances measures.
type InstancesOptions struct {
	Instances     []int // how many of them, one set after the other
	Subscriptions int
	Sampled       int    // of the subscriptions: those that get events
	Servers       int    // 1 or 3, processes
	Subproxy      string // the program; default: testbed.Subproxy
	Progress      io.Writer
}

// pauseBound is the longest that a subscription may pause when it is handed over.
const pauseBound = 100 * time.Millisecond

// Instances measures what it costs that subscriptions move among instances: how long until they are where
// they should be, how long each pauses, and what is lost.
func Instances(ctx context.Context, o InstancesOptions) (*Report, error) {
	r := &Report{Bench: "instances", Setup: fmt.Sprintf("%d subscriptions, of which %d get an event every %v; %d nats-server(s), an emitter and each instance as processes, publisher and "+
		"subscribers in another; %d CPU(s), %s", o.Subscriptions, o.Sampled, instanceEvery, o.Servers, runtime.NumCPU(), runtime.Version())}
	var err error
	if o.Subproxy, err = testbed.Subproxy(o.Subproxy); err != nil {
		return nil, err
	}
	for _, n := range o.Instances {
		if err := instancesOf(ctx, o, n, r); err != nil {
			return nil, fmt.Errorf("%d instances: %w", n, err)
		}
	}
	r.note("Pauses are a subscription's longest between two events, less the publisher's longest that overlaps it; they are seen from below, to %v. Gaps are from when "+
		"an instance leaves a subscription to another, as it says, or releases it, to the next registration in the bucket, of all subscriptions.", instanceEvery)
	r.note("Moves are registrations by another run than the one before; the least are those that the sharing demands. One instance that restarts is nobody's to take over from.")
	return r, nil
}

// scenario is a change of who shares, under way.
type scenario struct {
	*fleet
	*Report
	what  string
	least int // moves that it takes
	from  time.Time
	first int // number of the first event published meanwhile
}

// instancesOf measures one set.
func instancesOf(ctx context.Context, o InstancesOptions, n int, r *Report) error {
	t, err := startFleet(ctx, o)
	if err != nil {
		return err
	}
	defer t.close()
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("instance-%02d", i+1)
	}
	label := func(what string) string {
		if n == 1 {
			return "1 instance, " + what
		}
		return fmt.Sprintf("%d instances, %s", n, what)
	}
	begin := func(what string) *scenario {
		fmt.Fprintf(o.Progress, "%s…\n", label(what))
		t.ownership.collect()
		return &scenario{fleet: t, Report: r, what: label(what), from: time.Now(), first: t.pub.count()}
	}

	m := begin("all start")
	if err := m.startAll(ctx, names); err != nil {
		return err
	}
	publishing, stop := context.WithCancel(ctx)
	defer stop()
	published := make(chan error, 1)
	go func() { published <- t.pub.run(publishing) }()
	var scenarios []*scenario
	for _, step := range []struct {
		what string
		do   func(*scenario) error
	}{
		{"nothing happens", func(m *scenario) error { return m.idle(ctx) }},
		{"one more joins", func(m *scenario) error { return m.join(ctx, names, "instance-00") }},
		{"one leaves", func(m *scenario) error { return m.leave(ctx, names, "instance-00") }},
		{"rolling restart", func(m *scenario) error { return m.restartAll(ctx, names) }},
		{killedOne, func(m *scenario) error { return m.killSome(ctx, names) }},
	} {
		if err := t.flowing(ctx); err != nil {
			return err
		}
		if n == 1 && step.what == killedOne {
			continue
		}
		m := begin(step.what)
		if err := step.do(m); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		scenarios = append(scenarios, m)
	}
	if err := t.flowing(ctx); err != nil {
		return err
	}
	stop()
	if err := <-published; err != nil {
		return err
	}
	return t.conclude(ctx, scenarios)
}

func (m *scenario) startAll(ctx context.Context, names []string) error {
	for _, name := range names {
		if err := m.start(ctx, name); err != nil {
			return err
		}
	}
	last, err := m.balanced(ctx, m.assignment(names))
	if err != nil {
		return err
	}
	m.durations(m.what+": until balanced", []time.Duration{last.Sub(m.from)})
	m.number(m.what+": moves", float64(m.ownership.collect().moves), "")
	m.number(m.what+": the least", float64(m.Subscriptions), "")
	return nil
}

// idle shows what this machine does to pauses by itself.
func (m *scenario) idle(ctx context.Context) error {
	if err := backoff.Sleep(ctx, 2*time.Second); err != nil {
		return err
	}
	pauses, err := m.pauses(ctx, func(*sample) bool { return true })
	m.durations(m.what+": pauses", pauses)
	return err
}

func (m *scenario) join(ctx context.Context, names []string, name string) error {
	before, after := m.assignment(names), m.assignment(append([]string{name}, names...))
	m.least = differ(before, after)
	if err := m.start(ctx, name); err != nil {
		return err
	}
	last, err := m.balanced(ctx, after)
	if err != nil {
		return err
	}
	m.durations(m.what+": until balanced", []time.Duration{last.Sub(m.from)})
	return m.moved(ctx, true)
}

func (m *scenario) leave(ctx context.Context, names []string, name string) error {
	after := m.assignment(names)
	m.least = differ(m.assignment(append([]string{name}, names...)), after)
	if err := m.end(name, syscall.SIGTERM); err != nil {
		return err
	}
	m.durations(m.what+": SIGTERM until it is gone", []time.Duration{time.Since(m.from)})
	if _, err := m.balanced(ctx, after); err != nil {
		return err
	}
	return m.moved(ctx, true)
}

// restartAll restarts one after the other under its name.
func (m *scenario) restartAll(ctx context.Context, names []string) error {
	wanted := m.assignment(names)
	var ends, backs []time.Duration
	for _, name := range names {
		began := time.Now()
		if err := m.end(name, syscall.SIGTERM); err != nil {
			return err
		}
		ended := time.Now()
		ends = append(ends, ended.Sub(began))
		if err := m.start(ctx, name); err != nil {
			return err
		}
		last, err := m.balanced(ctx, wanted)
		if err != nil {
			return err
		}
		backs = append(backs, last.Sub(ended))
	}
	m.durations(m.what+": SIGTERM until it is gone", ends)
	m.durations(m.what+": from its start until balanced", backs)
	m.least = 2 * len(wanted) // there and back
	if len(names) == 1 {
		m.least = len(wanted)
	}
	return m.moved(ctx, len(names) > 1)
}

const killedOne = "killed one after the other"

// kills is how many are killed: how long it takes depends on when one renewed its session last.
const kills = 3

// killSome kills some of them, each once the one before is back and has its share again.
func (m *scenario) killSome(ctx context.Context, names []string) error {
	wanted := m.assignment(names)
	var k killed
	for _, victim := range names[:min(kills, len(names))] {
		if err := m.flowing(ctx); err != nil { // again, where the one before came back
			return err
		}
		round := *m
		round.from = time.Now()
		m.ownership.collect()
		if err := round.kill(ctx, names, victim, &k); err != nil {
			return err
		}
		m.least = round.least
		if err := m.start(ctx, victim); err != nil {
			return err
		}
		if _, err := m.balanced(ctx, wanted); err != nil {
			return err
		}
	}
	m.durations(m.what+": until the last of one's subscriptions is registered elsewhere", k.until)
	m.durations(m.what+": of that, from the first to the last", k.claims)
	puts, err := m.rawPuts(ctx, max(k.moves/max(len(k.until), 1), 1))
	if err != nil {
		return err
	}
	m.durations(m.what+": raw pipelined puts of as many, which nobody follows", puts)
	m.number(m.what+": moves", float64(k.moves), "")
	m.number(m.what+": the least", float64(m.least), "")
	m.durations(m.what+": pauses of its subscriptions", k.its)
	m.durations(m.what+": pauses of the others'", k.others)
	m.target(m.what+": longest until all are registered elsewhere", micros(quantile(k.until, 1))/1000, micros(sessionTTL+sessionGrace+pauseBound)/1000, "ms")
	m.target(m.what+": longest pause of the others'", micros(quantile(k.others, 1))/1000, micros(pauseBound)/1000, "ms")
	return nil
}

// rawPuts times bare conditional puts of n records, side by side with what else goes on.
func (f *fleet) rawPuts(ctx context.Context, n int) (took []time.Duration, err error) {
	nc, _, err := f.dial()
	if err != nil {
		return nil, err
	}
	r, err := newRaw(ctx, nc, n, f.Servers)
	if err != nil {
		return nil, err
	}
	for i := range kills + 1 {
		put, _, err := r.pipelined(ctx)
		if err != nil {
			return nil, err
		}
		if i > 0 { // the first round creates the keys
			took = append(took, put)
		}
	}
	return took, nil
}

// killed is what happened when some were killed.
type killed struct {
	until, claims []time.Duration // of each
	its, others   []time.Duration // pauses
	moves         int
}

// kill kills one, and waits until the others have what it held.
func (m *scenario) kill(ctx context.Context, names []string, victim string, k *killed) error {
	after := m.assignment(slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == victim }))
	m.least += differ(m.assignment(names), after)
	orphans := map[string]bool{}
	for _, s := range m.samples {
		orphans[s.key] = m.ownership.ownerName(s.key) == victim
	}
	if err := m.end(victim, syscall.SIGKILL); err != nil {
		return err
	}
	last, err := m.balanced(ctx, after)
	if err != nil {
		return err
	}
	moved := m.ownership.collect()
	k.moves += moved.moves
	if moved.moves > 0 { // else it held nothing
		k.until, k.claims = append(k.until, last.Sub(m.from)), append(k.claims, last.Sub(moved.first))
	}
	its, err := m.pauses(ctx, func(s *sample) bool { return orphans[s.key] })
	if err != nil {
		return err
	}
	others, err := m.pauses(ctx, func(s *sample) bool { return !orphans[s.key] })
	k.its, k.others = append(k.its, its...), append(k.others, others...)
	return err
}

func differ(a, b map[string]string) (n int) {
	for key, name := range a {
		if b[key] != name {
			n++
		}
	}
	return n
}

// moved reports moves, pauses and gaps. Bound says whether there are targets for them.
func (m *scenario) moved(ctx context.Context, bound bool) error {
	moved := m.ownership.collect()
	m.number(m.what+": moves", float64(moved.moves), "")
	m.number(m.what+": the least", float64(m.least), "")
	pauses, err := m.pauses(ctx, func(*sample) bool { return true })
	if err != nil {
		return err
	}
	m.durations(m.what+": pauses", pauses)
	m.durations(m.what+": gaps", moved.gaps)
	longest, gap := micros(quantile(pauses, 1)), micros(quantile(moved.gaps, 1))
	if !bound {
		m.number(m.what+": longest pause", longest, "µs")
		m.number(m.what+": longest gap", gap, "µs")
		return nil
	}
	m.target(m.what+": longest pause", longest/1000, micros(pauseBound)/1000, "ms")
	m.target(m.what+": longest gap", gap/1000, micros(pauseBound)/1000, "ms")
	return nil
}

// pauses are the longest of each subscription that gets events, once all get them again.
func (m *scenario) pauses(ctx context.Context, of func(*sample) bool) (all []time.Duration, err error) {
	if err := m.flowing(ctx); err != nil {
		return nil, err
	}
	for _, s := range m.samples {
		if of(s) {
			all = append(all, s.beyond(m.pub, m.from))
		}
	}
	return all, nil
}

// flowing waits until every subscriber gets events.
func (f *fleet) flowing(ctx context.Context) error {
	if err := backoff.Sleep(ctx, settle); err != nil {
		return err
	}
	at := f.pub.count() + 1
	return notAllIsFine(until(ctx, recovery, func() bool {
		for _, s := range f.samples {
			if !s.reached(at) {
				return false
			}
		}
		return true
	}))
}

// conclude accounts for what was published during each of the moves.
func (f *fleet) conclude(ctx context.Context, scenarios []*scenario) error {
	end := f.pub.count()
	const patience = 10 * time.Second
	err := until(ctx, patience, func() bool {
		for _, s := range f.samples {
			if s.account(0, end).lost > 0 {
				return false
			}
		}
		return true
	})
	if err := notAllIsFine(err); err != nil {
		return err
	}
	for i, m := range scenarios {
		until := end
		if i+1 < len(scenarios) {
			until = scenarios[i+1].first
		}
		for _, sink := range sampledSinks {
			var sum account
			for _, s := range f.samples {
				if s.sink == sink {
					c := s.account(m.first, until)
					sum.lost, sum.twice = sum.lost+c.lost, sum.twice+c.twice
				}
			}
			lost, twice := m.what+": events lost, sink "+sink, m.what+": events twice, sink "+sink
			if sink == "publish" {
				m.number(lost, float64(sum.lost), "")
				m.number(twice, float64(sum.twice), "")
				continue
			}
			m.target(lost, float64(sum.lost), 0, "")
			m.target(twice, float64(sum.twice), 0, "")
		}
	}
	return nil
}
