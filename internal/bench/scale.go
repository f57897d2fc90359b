package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
)

// ScaleOptions say what Scale measures.
type ScaleOptions struct {
	Subscriptions []int // of one instance, ascending
	Servers       int   // 1 or 3
	Rounds        int
	Idle          time.Duration // how long an idle instance is watched; 0: one interval of its timers
	Storms        bool          // whether an operator's requests are timed during storms, with the most subscriptions
	CPUProfile    string        // file for the profile of the instance that has the storms; empty: none
	Progress      io.Writer
}

// Bounds of section 12 of the design, and of what an operator waits for.
const (
	scaleBaselineBound = 1.5 // × the raw operations, with 10,000 subscriptions
	scaleGrowthBound   = 1.2 // × the growth of the number of subscriptions
	idleGrowthBound    = 0.8 // × the same: what is idle has to grow slower
	residentBound      = 2   // KiB a subscription
	statusBound        = 100 * time.Millisecond
)

// scale is a run of Scale.
type scale struct {
	ScaleOptions
	servers *testbed.Cluster[*testbed.Server]
	nc      *nats.Conn
	report  *Report
	last    *scaleFigures // of the number of subscriptions before
}

// scaleFigures are what one number of subscriptions took.
type scaleFigures struct {
	n            int
	cold, change time.Duration
	idle         idleUsage
}

// Scale measures what one instance takes as its subscriptions become more: to register them all, and idle.
func Scale(ctx context.Context, o ScaleOptions) (*Report, error) {
	s := &scale{ScaleOptions: o, report: &Report{Bench: "scale", Setup: fmt.Sprintf(
		"%d nats-server(s), instance and bench as processes of their own, replicas %d, default configuration, %d CPU(s), %s", o.Servers, o.Servers, runtime.NumCPU(), runtime.Version())}}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	defer s.servers.Shutdown()
	var err error
	if s.nc, err = nats.Connect(s.servers.URLs(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0)); err != nil {
		return nil, err
	}
	defer s.nc.Close()
	if err := s.measureBare(ctx); err != nil {
		return nil, err
	}
	for i, n := range o.Subscriptions {
		if err := s.measure(ctx, n, i == len(o.Subscriptions)-1); err != nil {
			return nil, fmt.Errorf("%d subscriptions: %w", n, err)
		}
	}
	s.report.note("Messages are those that the instance's own connections sent and got, whatever for: writes and their acknowledgements, read-backs, the bucket's " +
		"republished records, statuses, heartbeats, summaries, the session. CPU is the instance's process alone. The raw operations are one client's, without a process to start.")
	return s.report, nil
}

// start starts the servers as processes that can be killed, and started again with what they stored.
func (s *scale) start(ctx context.Context) error {
	servers, err := testbed.StartServers(ctx, s.Servers, testbed.ServerOptions{Stderr: os.Stderr})
	s.servers = servers
	return err
}

// restart kills every server and starts them again.
func (s *scale) restart(ctx context.Context) error {
	for _, p := range s.servers.Servers {
		if err := p.Kill(); err != nil {
			return err
		}
	}
	var all errgroup.Group
	for _, p := range s.servers.Servers {
		all.Go(func() error { return p.Restart(ctx) })
	}
	return all.Wait()
}

func (s *scale) instance(n int, profile string) (*instance, error) {
	return startInstance(instanceConfig{URL: s.servers.URLs(), Subscriptions: n, Replicas: s.Servers, CPUProfile: profile})
}

// caused tells the registrations of a cause, with those that mend what failed or was lost of them: on a
// machine that is busy with something else some do.
func caused(cause registration.Cause) func(registered) bool {
	return func(r registered) bool {
		return r.Cause == cause || r.Cause == registration.Retry || r.Cause == registration.Lost
	}
}

// change publishes a leader change.
func (s *scale) change() (time.Time, error) {
	now := time.Now()
	return now, s.nc.Publish(cluster.LeaderChangedSubject, []byte(`{"store":"`+store+`","leader":"n2"}`))
}

// scaleCalm is how long the instance, and the server, are left alone between two rounds.
const scaleCalm = 2 * time.Second

// measure takes the figures of n subscriptions. The last instance of its rounds is the one that is watched
// while idle.
func (s *scale) measure(ctx context.Context, n int, most bool) error {
	fmt.Fprintf(s.Progress, "measuring %d subscriptions, %d rounds…\n", n, s.Rounds)
	baseline, err := s.baseline(ctx, n)
	if err != nil {
		return err
	}
	var cold, change []time.Duration
	var in *instance
	for range s.Rounds {
		if in != nil {
			in.stop()
		}
		var c, d time.Duration
		if in, c, d, err = s.round(ctx, n); err != nil {
			return err
		}
		cold, change = append(cold, c), append(change, d)
	}
	idle, err := s.idle(ctx, in, n)
	in.stop()
	if err != nil {
		return fmt.Errorf("idle: %w", err)
	}
	s.tell(&scaleFigures{n: n, idle: idle, cold: quantile(cold, 0.5), change: quantile(change, 0.5)}, baseline, cold, change)
	if most && s.Storms {
		return s.loadPhases(ctx, n)
	}
	return nil
}

// round starts an instance and has its leader change. The instance runs on, unless there is an error.
func (s *scale) round(ctx context.Context, n int) (_ *instance, cold, change time.Duration, err error) {
	in, err := s.instance(n, "")
	if err != nil {
		return nil, 0, 0, err
	}
	defer func() {
		if err != nil {
			in.stop()
		}
	}()
	last, err := in.verified(ctx, caused(registration.Initial), n)
	if err != nil {
		return nil, 0, 0, fmt.Errorf("cold start: %w", err)
	}
	cold = last.Sub(in.began)
	if err := backoff.Sleep(ctx, scaleCalm); err != nil {
		return nil, 0, 0, err
	}
	began, err := s.change()
	if err == nil {
		last, err = in.verified(ctx, caused(registration.LeaderChanged), n)
	}
	if err != nil {
		return nil, 0, 0, fmt.Errorf("leader change: %w", err)
	}
	return in, cold, last.Sub(began), backoff.Sleep(ctx, scaleCalm)
}

// baseline is the raw operations: pipelined puts and reading them back.
func (s *scale) baseline(ctx context.Context, n int) (both []time.Duration, err error) {
	r, err := newRaw(ctx, s.nc, n, s.Servers)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.js.DeleteKeyValue(ctx, r.bucket) }() // the server is about to be measured idle
	for round := range s.Rounds + 1 {
		put, read, err := r.pipelined(ctx)
		if err != nil {
			return nil, err
		}
		if round > 0 { // the first warms up
			both = append(both, put+read)
		}
		if err := backoff.Sleep(ctx, time.Second); err != nil {
			return nil, err
		}
	}
	return both, nil
}

// interval is how far apart the timer has two attempts of an idle proxy.
func (s *scale) interval(n int) time.Duration {
	c := config.Default().SubscriptionProxy
	return proxy.Settings{NormalInterval: c.NormalReregisterInterval, EventDriven: c.EnableClusterEventSubscriptions}.Stretched(n).NormalInterval
}

// tell reports the figures of one number of subscriptions, and their growth over the number before.
func (s *scale) tell(f *scaleFigures, baseline, cold, change []time.Duration) {
	r, of := s.report, fmt.Sprintf("%d subscriptions: ", f.n)
	raw := r.durations(of+"raw pipelined puts and reading them back", baseline)
	r.durations(of+"cold start to all verified", cold)
	r.durations(of+"leader change to all verified", change)
	r.number(of+"cold start against the raw operations", ratio(f.cold, raw), "×")
	r.number(of+"leader change against the raw operations", ratio(f.change, raw), "×")
	f.idle.tell(r, of)
	if f.idle.memory > 0 {
		r.number(of+"idle, resident memory a subscription, all that the process has", f.idle.memory/float64(f.n)/1024, "KiB")
	}
	if f.n == compared {
		r.target(of+"leader change against the raw operations", ratio(f.change, raw), scaleBaselineBound, "×")
	}
	if before := s.last; before != nil {
		s.grown(before, f)
	}
	s.last = f
}

// grown reports the growth from one number of subscriptions to the next.
func (s *scale) grown(a, b *scaleFigures) {
	r, more := s.report, float64(b.n)/float64(a.n)
	of := fmt.Sprintf("from %d to %d subscriptions, growth of ", a.n, b.n)
	r.number(of+"the cold start", ratio(b.cold, a.cold), "×")
	change := ratio(b.change, a.change)
	r.number(of+"a leader change", change, "×")
	messages := (b.idle.in + b.idle.out) / max(a.idle.in+a.idle.out, 1)
	r.number(of+"idle messages", messages, "×")
	if a.idle.cpu > 0 {
		r.number(of+"idle CPU", b.idle.cpu/a.idle.cpu, "×")
	}
	memory := (b.idle.memory - a.idle.memory) / float64(b.n-a.n) / 1024
	if a.idle.memory > 0 {
		r.number(fmt.Sprintf("from %d to %d subscriptions, idle resident memory a subscription more", a.n, b.n), memory, "KiB")
	}
	if a.n >= compared {
		r.target(of+"a leader change", change, scaleGrowthBound*more, "×")
	}
	if a.n >= 1000 {
		r.target(of+"idle messages", messages, idleGrowthBound*more, "×")
	}
	if a.n >= compared && a.idle.memory > 0 {
		r.target("idle, resident memory a subscription more", memory, residentBound, "KiB")
	}
}
