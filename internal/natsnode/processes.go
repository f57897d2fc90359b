package natsnode

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"golang.org/x/sync/errgroup"
)

// Processes are a JetStream cluster of child processes.
type Processes []*Process

// StartProcesses starts that many servers as child processes, routed to each other, and returns when they accept streams
// with that many replicas; ctx bounds only that. The options are each process's, as for StartCluster; name, routes and
// ports of the cluster are picked here.
func StartProcesses(ctx context.Context, size int, o ProcessOptions) (Processes, error) {
	if size < 1 {
		return nil, errSize
	}
	if o.Name == "" {
		o.Name = "n"
	}
	for attempt := 1; ; attempt++ {
		ps, err := startProcesses(ctx, size, o)
		if err == nil && o.StoreDir == "" && attempt < firstElections && !ps.elects(ctx) {
			ps.Shutdown()
			continue
		}
		if err == nil {
			err = ps.WaitReady(ctx)
		}
		if err != nil {
			ps.Shutdown()
			return nil, err
		}
		return ps, nil
	}
}

func startProcesses(ctx context.Context, size int, o ProcessOptions) (Processes, error) {
	ports, err := reserveRoutes(size, loopback)
	if err != nil {
		return nil, err
	}
	if size > 1 {
		o.ClusterName, o.Routes = nuid.Next(), nil
		for _, u := range routeURLs(ports, loopback) {
			o.Routes = append(o.Routes, u.String())
		}
	}
	ps, errs := make(Processes, size), make([]error, size)
	var g errgroup.Group
	for i, port := range ports {
		each := o
		each.Name = o.Name + strconv.Itoa(i+1)
		if o.StoreDir != "" {
			each.StoreDir = filepath.Join(o.StoreDir, each.Name)
		}
		if o.Port != 0 {
			each.Port = o.Port + i
		}
		each.ClusterPort = port.number
		g.Go(func() error {
			ps[i], errs[i] = StartProcess(ctx, each)
			if ps[i] == nil {
				port.release()
				return nil
			}
			ps[i].hold(port)
			return nil
		})
	}
	_ = g.Wait()
	var started Processes
	for _, p := range ps {
		if p != nil {
			started = append(started, p)
		}
	}
	return started, errors.Join(errs...)
}

// hold makes the process release the port at its Shutdown.
func (p *Process) hold(r *port) {
	p.lifecycle.Lock()
	defer p.lifecycle.Unlock()
	p.reserved = append(p.reserved, r)
}

// elects reports whether the first election comes to a result.
func (ps Processes) elects(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, firstElection)
	defer cancel()
	return wait(ctx, "a leader", func() bool {
		for _, p := range ps {
			if len(ps) == 1 || p.current.Load().report().Leader {
				return true
			}
		}
		return false
	}) == nil
}

// WaitReady waits until the processes that run have a meta leader, are current with it, and accept streams with as many
// replicas. What a paused process said last counts.
func (ps Processes) WaitReady(ctx context.Context) error {
	return wait(ctx, "the NATS cluster", func() bool {
		var running []state
		for _, p := range ps {
			if p.Running() {
				running = append(running, p.current.Load().report().state)
			}
		}
		return ready(running)
	})
}

// URLs are all processes' URLs, comma-separated.
func (ps Processes) URLs() string {
	urls := make([]string, len(ps))
	for i, p := range ps {
		urls[i] = p.URL()
	}
	return strings.Join(urls, ",")
}

// StreamLeader asks JetStream until a process that runs leads the stream, and is that process.
func (ps Processes) StreamLeader(ctx context.Context, js jetstream.JetStream, stream string) (*Process, error) {
	var leader *Process
	var last error
	err := wait(ctx, fmt.Sprintf("a leader of stream %s", stream), func() bool {
		if leader, last = ps.askLeader(ctx, js, stream); errors.Is(last, jetstream.ErrStreamNotFound) {
			return true
		}
		return leader != nil
	})
	if err == nil || last != nil {
		return leader, last
	}
	return nil, err
}

func (ps Processes) askLeader(ctx context.Context, js jetstream.JetStream, stream string) (*Process, error) {
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	cluster := s.CachedInfo().Cluster
	for _, p := range ps {
		if p.Running() && (len(ps) == 1 || cluster != nil && p.Name() == cluster.Leader) {
			return p, nil
		}
	}
	return nil, nil
}

// Shutdown ends all processes, gives their ports back and removes temporary stores. It can be called again.
func (ps Processes) Shutdown() {
	var g errgroup.Group
	for _, p := range ps {
		g.Go(func() error {
			p.Shutdown()
			return nil
		})
	}
	_ = g.Wait()
}
