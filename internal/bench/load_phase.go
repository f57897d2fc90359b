package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/registration"
)

// loadPhase is one of the times when every subscription of an instance is busy.
type loadPhase struct {
	name  string
	took  []time.Duration
	peak  float64 // bytes resident
	asked answers
}

// loadPhases times an operator's requests while all n subscriptions register.
func (s *scale) loadPhases(ctx context.Context, n int) error {
	o, err := newOperator(s.servers.URLs(), n)
	if err != nil {
		return err
	}
	defer o.close()
	cold := &loadPhase{name: "cold start"}
	change := &loadPhase{name: "leader change"}
	restart := &loadPhase{name: "NATS killed and started again"}
	all := []*loadPhase{cold, change, restart}
	for round := range s.Rounds {
		fmt.Fprintf(s.Progress, "storms with %d subscriptions, round %d…\n", n, round+1)
		if err := s.loadRound(ctx, o, n, cold, change, restart); err != nil {
			return err
		}
	}
	for _, st := range all {
		what := fmt.Sprintf("%s with %d subscriptions: ", st.name, n)
		s.report.durations(what+"until all are verified, while asked", st.took)
		st.asked.tell(s.report, what)
		if st.peak > 0 {
			s.report.number(what+"peak resident memory", st.peak/(1<<20), "MiB")
		}
	}
	s.report.note("During a storm the status of one subscription is asked every %v, whether or not the one before was answered, and one is re-registered every %v, by an "+
		"operator's requests over NATS. Raw requests go over the same servers to somebody who answers at once: what they wait is NATS and the machine. While NATS is away "+
		"nobody is asked.", statusEvery, reregisterEvery)
	return nil
}

func (s *scale) loadRound(ctx context.Context, o *operator, n int, cold, change, restart *loadPhase) error {
	var in *instance
	defer func() {
		if in != nil {
			in.stop()
		}
	}()
	err := cold.during(ctx, o, func(watch func(*instance)) (began, last time.Time, err error) {
		if in, err = s.instance(n, s.CPUProfile); err != nil {
			return began, last, err
		}
		watch(in)
		last, err = in.verified(ctx, caused(registration.Initial), n)
		return in.began, last, err
	})
	if err != nil {
		return fmt.Errorf("cold start: %w", err)
	}
	if err := backoff.Sleep(ctx, scaleCalm); err != nil {
		return err
	}
	err = change.during(ctx, o, func(watch func(*instance)) (began, last time.Time, err error) {
		watch(in)
		if began, err = s.change(); err != nil {
			return began, last, err
		}
		last, err = in.verified(ctx, caused(registration.LeaderChanged), n)
		return began, last, err
	})
	if err != nil {
		return fmt.Errorf("leader change: %w", err)
	}
	if err := backoff.Sleep(ctx, scaleCalm); err != nil {
		return err
	}
	err = restart.during(ctx, o, func(watch func(*instance)) (began, last time.Time, err error) {
		watch(in)
		if err := s.restart(ctx); err != nil {
			return began, last, err
		}
		began = time.Now()
		last, err = s.recovered(ctx, in, n)
		return began, last, err
	})
	if err != nil {
		return fmt.Errorf("NATS started again: %w", err)
	}
	return backoff.Sleep(ctx, scaleCalm)
}

// recovered returns when all are registered again after a restart, and verified: by the reconnect, by what
// failed and was tried again, or by the news of a leader.
func (s *scale) recovered(ctx context.Context, in *instance, n int) (time.Time, error) {
	last, err := in.verified(ctx, func(r registered) bool { return r.Cause != registration.Manual }, n)
	if err != nil {
		return last, err
	}
	for {
		u, err := in.usage(ctx)
		if err != nil || u.Verified == n {
			return last, err
		}
		if err := backoff.Sleep(ctx, 100*time.Millisecond); err != nil {
			return last, err
		}
		last = time.Now()
	}
}

// during runs a load phase while the operator asks. It says which instance it is in.
func (st *loadPhase) during(ctx context.Context, o *operator, load func(watch func(*instance)) (began, last time.Time, err error)) error {
	end := o.begin(ctx)
	done := make(chan struct{})
	var watching sync.WaitGroup
	began, last, err := load(func(in *instance) {
		watching.Go(func() { st.watch(in.PID(), done) })
	})
	close(done)
	watching.Wait()
	st.asked.add(end())
	st.took = append(st.took, last.Sub(began))
	return err
}

// watch notes the peak of the memory.
func (st *loadPhase) watch(pid int, done <-chan struct{}) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			st.peak = max(st.peak, resident(pid))
		case <-done:
			return
		}
	}
}
