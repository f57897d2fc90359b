package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/cluster"
)

// leaseTTL is how long an emitter that was killed still leads.
const leaseTTL = 2 * time.Second

func (f *failover) startEmitter(ctx context.Context, dir, name string) (*process, error) {
	return startProcess(ctx, f.Subproxy, dir, name, "emitter", emitterRuns, emitterConf(f.cluster.URLs(), name, failoverStore, servers))
}

// emitterRuns is what an emitter logs once it contends.
const emitterRuns = "emitter runs"

func emitterConf(urls, name, store string, replicas int) []byte {
	return fmt.Appendf(nil, "nats: {url: %q}\ninstance: {name: %s}\nregistry: {replicas: %d}\nemitter: {enabled: true, lease_ttl: %s}\nstores:\n  - id: %s\n    stream: {replicas: %d}\n",
		urls, name, replicas, leaseTTL, store, replicas)
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
	running := map[string]*process{}
	defer func() {
		for _, e := range running {
			_ = e.end(syscall.SIGKILL)
		}
	}()
	for _, name := range []string{"emitter-a", "emitter-b"} {
		e, err := f.startEmitter(ctx, dir, name)
		if e != nil {
			running[name] = e
		}
		if err != nil {
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
				leads := running[heard.leader()]
				if leads == nil {
					return fmt.Errorf("%q leads the store, which is none of the emitters here", heard.leader())
				}
				delete(running, leads.name)
				// Its end is not waited for here: subscribers are to be looked at meanwhile.
				return leads.cmd.Process.Signal(fault.how)
			}); err != nil {
				return err
			}
			for _, name := range []string{"emitter-a", "emitter-b"} {
				if running[name] != nil {
					continue
				}
				e, err := f.startEmitter(ctx, dir, name)
				if e != nil {
					running[name] = e
				}
				if err != nil {
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
