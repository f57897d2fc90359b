package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
)

// idleUsage is what a process takes while nothing happens.
type idleUsage struct {
	memory  float64 // bytes resident; 0: not known
	cpu     float64 // of one core
	in, out float64 // messages a second
}

func (u *idleUsage) tell(r *Report, of string) {
	if u.memory > 0 {
		r.number(of+"idle, resident memory", u.memory/(1<<20), "MiB")
	}
	r.number(of+"idle, messages sent", u.out, "/s")
	r.number(of+"idle, messages received", u.in, "/s")
	r.number(of+"idle, CPU", 100*u.cpu, "% of one core")
}

// watch measures a child for that long.
func (i *instance) watch(ctx context.Context, d time.Duration) (u idleUsage, err error) {
	before, err := i.usage(ctx)
	if err != nil {
		return u, err
	}
	began := time.Now()
	if err := backoff.Sleep(ctx, d); err != nil {
		return u, err
	}
	took := time.Since(began).Seconds()
	after, err := i.usage(ctx)
	return idleUsage{
		memory: resident(i.PID()), cpu: (after.CPU - before.CPU).Seconds() / took,
		in: float64(after.In-before.In) / took, out: float64(after.Out-before.Out) / took,
	}, err
}

// measureBare is the baseline of what is idle: a process with a connection, and nothing else.
func (s *scale) measureBare(ctx context.Context) error {
	in, err := s.instance(0, "")
	if err != nil {
		return err
	}
	defer in.stop()
	if _, err := in.usage(ctx); err != nil { // it is there
		return err
	}
	d := s.Idle
	if d == 0 {
		d = idleSettle
	}
	fmt.Fprintf(s.Progress, "watching an idle raw connection for %v…\n", d)
	u, err := in.watch(ctx, d)
	if err != nil {
		return err
	}
	u.tell(s.report, "raw connection: ")
	return nil
}

// idle watches an instance once what its last round left behind is gone. The default is as long as its
// timers' interval, in which each proxy has its turn once: a shorter time says something about the moment.
func (s *scale) idle(ctx context.Context, in *instance, n int) (idleUsage, error) {
	d, settle := s.Idle, min(s.Idle, idleSettle)
	if d == 0 {
		d, settle = s.interval(n), idleSettle
	}
	fmt.Fprintf(s.Progress, "watching %d idle subscriptions for %v…\n", n, d)
	if err := backoff.Sleep(ctx, settle); err != nil {
		return idleUsage{}, err
	}
	return in.watch(ctx, d)
}
