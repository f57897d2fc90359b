package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/cluster"
)

// leaseTTL is how long an emitter that was killed still leads.
const leaseTTL = 2 * time.Second

// newEmitter is an emitter of a store, as a process. It does not run yet.
func newEmitter(program, dir, urls, name, store string, replicas int) (*testbed.Program, error) {
	e := &testbed.Program{File: program, Dir: dir, Name: name, Command: "emitter", Ready: testbed.EmitterRuns}
	return e, e.Configure(fmt.Sprintf("nats: {url: %q}\ninstance: {name: %s}\nregistry: {replicas: %d}\nemitter: {enabled: true, lease_ttl: %s}\nstores:\n  - id: %s\n    stream: {replicas: %d}\n",
		urls, name, replicas, leaseTTL, store, replicas))
}

// leaders hears who leads the store's emitters.
type leaders struct {
	mu   sync.Mutex
	last string
}

func (l *leaders) heard(m *nats.Msg) {
	var e struct {
		Store  string `json:"store"`
		Leader string `json:"leader"`
	}
	if json.Unmarshal(m.Data, &e) == nil && e.Store == failoverStore {
		l.mu.Lock()
		l.last = e.Leader
		l.mu.Unlock()
	}
}

func (l *leaders) leader() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// emitters kills and stops the emitter that leads. There are two, as processes.
func (f *failover) emitters(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "subproxy-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	nc, err := f.dial(f.cluster.URLs())
	if err != nil {
		return err
	}
	defer nc.Close()
	var heard leaders
	if _, err := nc.Subscribe(cluster.LeaderChangedSubject, heard.heard); err != nil {
		return err
	}
	if err := nc.Flush(); err != nil {
		return err
	}
	emitters := map[string]*testbed.Program{}
	defer func() {
		for _, e := range emitters {
			_ = e.Kill()
		}
	}()
	for _, name := range []string{"emitter-a", "emitter-b"} {
		e, err := newEmitter(f.Subproxy, dir, f.cluster.URLs(), name, failoverStore, servers)
		if err != nil {
			return err
		}
		emitters[name] = e
		if err := e.Start(ctx); err != nil {
			return err
		}
	}
	for round := range f.Rounds {
		// What this machine does to pauses by itself.
		if err := f.emitterFault(ctx, fmt.Sprintf("nothing_%d", round), "nothing happens", func() error { return nil }); err != nil {
			return err
		}
		for _, fault := range []struct {
			name string
			how  syscall.Signal
		}{{"emitter killed", syscall.SIGKILL}, {"emitter stopped", syscall.SIGTERM}} {
			fmt.Fprintf(f.Progress, "%s, round %d…\n", fault.name, round+1)
			if err := f.emitterFault(ctx, fmt.Sprintf("emitter_%d_%d", round, fault.how), fault.name, func() error {
				leads := emitters[heard.leader()]
				if leads == nil {
					return fmt.Errorf("%q leads the store, which is none of the emitters here", heard.leader())
				}
				// Its end is not waited for here: subscribers are to be looked at meanwhile.
				return leads.Signal(fault.how)
			}); err != nil {
				return err
			}
			for _, e := range emitters {
				if !e.Told() {
					continue
				}
				if err := errors.Join(e.Stop(), e.Start(ctx)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (f *failover) emitterFault(ctx context.Context, tag, name string, happen func() error) error {
	r := &faultRound{failover: f, away: f.cluster.URLs()}
	defer r.close()
	if err := r.publisher(); err != nil {
		return err
	}
	if err := r.proxied(ctx, f.cluster.URLs(), tag, false); err != nil {
		return err
	}
	return r.measure(ctx, name, happen)
}
