//go:build unix

package integration

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/exesdb/subproxy/test/harness"
)

// TestChaos runs schedules of faults, each made from a seed, with publishers going on, and holds what
// subscribers got against what the store has. A seed that failed is run again with
//
//	go test -run TestChaos ./test/integration -chaos.seed=SEED
//
// which makes the same schedule; what the processes make of it may differ.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs and waits for leases and elections")
	}
	subproxy := builtSubproxy(t)
	chaosSchedules(t, func(t *testing.T, seed uint64) { chaosRun(t, subproxy, seed) })
}

// chaosSchedules runs the schedules that the flags ask for.
func chaosSchedules(t *testing.T, run func(t *testing.T, seed uint64)) {
	began, first := time.Now(), rand.Uint64N(1_000_000)
	if *chaosSeed != 0 {
		run(t, *chaosSeed)
		return
	}
	var n atomic.Int64
	next := func() (uint64, bool) {
		i := n.Add(1) - 1
		if t.Failed() || *chaosDuration == 0 && i >= int64(*chaosSeeds) || *chaosDuration > 0 && time.Since(began) > *chaosDuration {
			return 0, false
		}
		return 1 + first + uint64(i), true
	}
	var work sync.WaitGroup
	for range *chaosParallel {
		work.Go(func() {
			for {
				seed, ok := next()
				if !ok {
					return
				}
				t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { run(t, seed) })
			}
		})
	}
	work.Wait()
	t.Logf("%d schedules, seeds from %d", n.Load()-int64(*chaosParallel), 1+first)
}

// step is one fault, after a pause.
type step struct {
	after  time.Duration
	fault  string
	target string
	at     time.Time // when it was done
}

func (s step) String() string {
	return strings.TrimSpace(fmt.Sprintf("%4dms  %s %s", s.after.Milliseconds(), s.fault, s.target))
}

// schedule is made from a seed alone.
type schedule struct {
	seed   uint64
	nodes  int
	hosted bool // instances host an emitter as well
	steps  []step
}

// What is the matter with a process, while the schedule is made.
const (
	up     = ""
	down   = "down"
	paused = "paused"
)

func makeSchedule(seed uint64, readers []*reader) *schedule {
	rng := rand.New(rand.NewPCG(seed, 0))
	s := &schedule{seed: seed, nodes: 1}
	if rng.IntN(3) == 0 {
		s.nodes = 3
	}
	s.hosted = rng.IntN(4) == 0
	state := map[string]string{"emitter-1": up, "emitter-2": up, "proxy-a": up, "proxy-b": down}
	away := map[string]bool{}
	nodeDown, taken := "", ""
	names := []string{"emitter-1", "emitter-2", "proxy-a", "proxy-b"}
	pick := func(from ...string) string { return from[rng.IntN(len(from))] }
	someReader := func(as func(*reader) bool) string {
		var fit []string
		for _, r := range readers {
			if as(r) {
				fit = append(fit, r.name)
			}
		}
		return pick(fit...)
	}
	for range 4 + rng.IntN(6) {
		one := step{after: time.Duration(rng.Int64N(int64(500 * time.Millisecond)))}
		switch roll := rng.IntN(122); {
		case roll >= 112:
			if taken != "" {
				one.fault, one.target, taken = "give permission", taken, ""
			} else {
				taken = pick(permissions...)
				one.fault, one.target = "take permission", taken
			}
		case roll >= 109 && !s.hosted:
			one.fault = "restore store"
		case roll >= 106:
			one.fault = "marker"
		case roll >= 103:
			one.fault = "limit store"
		case roll >= 100:
			one.fault = "purge store"
		case roll < 55:
			one.target = pick(names...)
			switch state[one.target] {
			case down:
				one.fault, state[one.target] = "start", up
			case paused:
				one.fault = pick("continue", "continue", "kill")
				state[one.target] = map[string]string{"continue": up, "kill": down}[one.fault]
			default:
				one.fault = pick("kill", "kill", "stop", "pause", "pause")
				state[one.target] = map[string]string{"kill": down, "stop": down, "pause": paused}[one.fault]
				if one.fault == "pause" && rng.IntN(2) == 0 {
					one.after += time.Second // about as long as a lease
				}
			}
		case roll < 67:
			if nodeDown != "" {
				one.fault, one.target, nodeDown = "start node", nodeDown, ""
			} else {
				nodeDown = fmt.Sprintf("n%d", 1+rng.IntN(s.nodes))
				one.fault, one.target = pick("kill node", "kill node", "stop node"), nodeDown
			}
		case roll < 73:
			one.fault, one.target = "delete registration", someReader(func(*reader) bool { return true })
		case roll < 76:
			one.fault = "purge registry"
		case roll < 81:
			one.fault = "delete lease"
		case roll < 86: // the place of one that begins with new events is nowhere else, where its proxy dies too
			one.fault, one.target = "delete checkpoint", someReader(func(r *reader) bool { return r.start >= 0 })
		case roll < 94:
			one.target = someReader(func(r *reader) bool { return r.sink == "request" })
			one.fault = "subscriber leaves"
			if away[one.target] {
				one.fault = "subscriber is back"
			}
			away[one.target] = !away[one.target]
		default:
			one.fault, one.target = "subscriber is slow", someReader(func(r *reader) bool { return r.sink == "request" })
		}
		s.steps = append(s.steps, one)
	}
	return s
}

func chaosRun(t *testing.T, subproxy string, seed uint64) {
	readers := deliveryReaders()
	s := makeSchedule(seed, readers)
	t.Cleanup(func() {
		if t.Failed() {
			var lines []string
			for _, one := range s.steps {
				at := "not reached"
				if !one.at.IsZero() {
					at = one.at.UTC().Format("15:04:05.000")
				}
				lines = append(lines, at+"  "+one.String())
			}
			t.Logf("seed %d, %d nodes, emitters in instances %t; run it again with: go test -run TestChaos ./test/integration -chaos.seed=%d\n%s", seed, s.nodes, s.hosted, seed, strings.Join(lines, "\n"))
		}
	})
	began := time.Now()
	w := newDeliveryWorld(t, subproxy, s.nodes, readers...)
	w.hosted = s.hosted
	w.begin()
	w.publish(2, 5*time.Millisecond)
	w.more(20)
	c := &chaos{deliveryWorld: w, paused: map[string]bool{}}
	c.listen()
	begun := time.Since(began)
	for i := range s.steps {
		one := &s.steps[i]
		time.Sleep(one.after)
		one.at = time.Now()
		c.do(one)
	}
	faults := time.Since(began) - begun
	c.restore()
	w.more(10)
	c.awaitPermitted()
	w.settle(w.repeats)
	t.Logf("seed %d: %d nodes, %d faults, %d events; %s: %s to begin, %s of faults", seed, s.nodes, len(s.steps), w.count.Load(),
		time.Since(began).Round(time.Millisecond), begun.Round(time.Millisecond), faults.Round(time.Millisecond))
}

// chaos does faults to a world.
type chaos struct {
	*deliveryWorld
	stopping  []*harness.Run
	paused    map[string]bool
	startedAt time.Time // the last start of a process
	told      refusals
	took      bool // a permission was taken
}

func (c *chaos) process(name string) map[string]*harness.Run {
	if strings.HasPrefix(name, "emitter") {
		return c.emitters
	}
	return c.proxies
}

func (c *chaos) start(name string) {
	c.Helper()
	c.startedAt = time.Now()
	if strings.HasPrefix(name, "emitter") {
		c.emitter(name)
	} else {
		c.proxy(name)
	}
}

func (c *chaos) node(name string) *harness.Server {
	return c.nodes[slices.IndexFunc(c.nodes, func(n *harness.Server) bool { return n.Name == name })]
}

func (c *chaos) do(s *step) {
	c.Helper()
	run := c.process(s.target)[s.target]
	switch s.fault {
	case "start":
		c.start(s.target)
	case "kill":
		run.MustKill()
		delete(c.paused, s.target)
	case "stop":
		run.MustSignal(syscall.SIGTERM)
		c.stopping = append(c.stopping, run)
		select { // without NATS it tries for longer; the next under its name may come meanwhile
		case <-run.Gone():
		case <-time.After(500 * time.Millisecond):
		}
	case "pause":
		run.MustSignal(syscall.SIGSTOP)
		c.paused[s.target] = true
	case "continue":
		run.MustSignal(syscall.SIGCONT)
		delete(c.paused, s.target)
	case "kill node", "stop node":
		// One at a time: those that are left must have everything.
		for _, n := range c.nodes {
			if n.HasEnded() {
				c.Fatalf("%s is down", n.Name)
			}
		}
		if len(c.nodes) > 1 {
			c.awaitReplicas()
		}
		c.holes.Store(true)
		if s.fault == "kill node" {
			c.node(s.target).MustKill()
		} else {
			c.node(s.target).MustSignal(syscall.SIGTERM)
			c.node(s.target).Exit()
		}
	case "start node":
		c.node(s.target).Launch()
	case "delete registration":
		c.hand(func() bool { return c.drop(harness.Bucket, c.reader(s.target).key()) })
	case "purge registry":
		c.hand(func() bool { return c.purged(harness.BucketStream) })
	case "delete lease":
		c.hand(func() bool { return c.drop(clusterBucket, leaseKey) })
	case "delete checkpoint":
		c.hand(func() bool { return c.drop(pointBucket, c.reader(s.target).key()) })
	case "restore store":
		c.restoreStore()
	case "marker":
		c.hand(c.mark)
	case "limit store":
		c.hand(func() bool { return c.shorten(c.limit) })
	case "purge store":
		c.hand(func() bool { return c.shorten(c.purge) })
	case "take permission":
		c.take(s.target)
	case "give permission":
		c.permit()
	case "subscriber leaves":
		c.leave(c.reader(s.target))
	case "subscriber is back":
		c.join(c.reader(s.target))
	case "subscriber is slow":
		c.reader(s.target).set(func(r *reader) { r.delay = 20 * time.Millisecond })
	default:
		c.Fatalf("no fault %q", s.fault)
	}
}

// hand is what is done by hand: once, and not at all where JetStream is away.
func (c *chaos) hand(do func() bool) {
	if !do() {
		c.Log("JetStream was away for what was to be done by hand")
	}
}

// restore ends all faults. Instances that are down are started last: who comes later takes over, so that no
// subscription is left with one that is gone.
func (c *chaos) restore() {
	c.Helper()
	c.mend()
	for _, name := range []string{"emitter-1", "emitter-2", "proxy-a", "proxy-b"} {
		if run := c.process(name)[name]; run != nil && run.HasEnded() {
			c.start(name)
		}
	}
	if len(c.nodes) > 1 {
		c.awaitReplicas()
	}
}

// mend ends the faults of those that are there, and waits for the end of those that were to stop.
func (c *chaos) mend() {
	c.Helper()
	for _, n := range c.nodes {
		if n.HasEnded() {
			n.Launch()
		}
	}
	if len(c.denied) > 0 {
		c.permit()
	}
	for _, run := range c.stopping {
		code := run.Exit()
		early := code == -1 && run.Log.String() == "" // the signal came before the program could ask for it
		if code != 0 && !early {
			c.Errorf("%s: exit status %d", run.Name, code)
		}
	}
	for name := range c.paused {
		c.process(name)[name].MustSignal(syscall.SIGCONT)
	}
	for _, r := range c.readers {
		r.set(func(r *reader) { r.delay = 0 })
		if r.sink != "stream" && r.sub == nil {
			c.join(r)
		}
	}
}
