package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/pkg/kv"
)

const (
	clusterBucket = "exesdb_cluster"
	bucketStream  = "KV_"
)

// kind of fault.
type kind int

const (
	emitterStopped kind = iota
	emitterKilled
	registrationDeleted
	nodeKilled
	nodeStopped
	kindCount
)

// inTurn are the first faults. What comes after is random: one of later, where the one that takes the least
// time stands twice.
var (
	inTurn = []kind{emitterStopped, registrationDeleted, emitterKilled, nodeKilled, nodeStopped}
	later  = append(inTurn[:len(inTurn):len(inTurn)], registrationDeleted)
)

func (k kind) String() string {
	return [...]string{"emitter leader stopped", "emitter leader killed", "registration deleted", "NATS node killed", "NATS node stopped"}[k]
}

// of is what a line says of it.
func (k kind) of(victim string) string { return k.String() + ": " + victim }

func (k kind) ofNode() bool    { return k == nodeKilled || k == nodeStopped }
func (k kind) ofEmitter() bool { return k == emitterStopped || k == emitterKilled }

// fault is one thing that breaks, in every set at once, and is mended again.
type fault struct {
	*world
	kind         kind
	subscription int // whose registration
	node         int // of the cluster; never the first

	at       time.Time
	what     string   // broke, as its line says
	expected []string // subscriptions that are to be verified again
	broken   []func(context.Context) error
}

// outcome is what a fault did to a set.
type outcome struct {
	verified  time.Duration // after the fault; negative: not within patience
	delivery  time.Duration
	publisher time.Duration
	totals    totals
}

// patience is how long a set may take to come back.
const patience = 40 * time.Second

// prepare has the node that is to fail lead what matters, so that its death is felt. What the sinks deliver
// to is not part of that: the time that its own election takes would be taken for subproxy's.
func (f *fault) prepare(ctx context.Context) error {
	if !f.kind.ofNode() {
		return nil
	}
	streams := []string{bucketStream + kv.DefaultBucket}
	for _, s := range f.sets {
		streams = append(streams, emitter.StreamName(s.store))
	}
	if err := f.moveLeader(ctx, sinkStream, f.nodes.Servers[0].Name()); err != nil {
		return err
	}
	for _, name := range streams {
		if err := f.moveLeader(ctx, name, f.nodes.Servers[f.node].Name()); err != nil {
			return err
		}
	}
	return nil
}

// moveLeader asks for another leader of a stream until it is that one.
func (f *fault) moveLeader(ctx context.Context, stream, to string) error {
	const (
		timeout = 2 * time.Second
		between = 500 * time.Millisecond // for the election
	)
	body, err := json.Marshal(map[string]any{"placement": map[string]any{"preferred": to}})
	if err != nil {
		return err
	}
	var asked time.Time
	return testbed.Until(ctx, func() bool {
		asking, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		s, err := f.js.Stream(asking, stream)
		if err != nil || s.CachedInfo().Cluster == nil {
			return false
		}
		if s.CachedInfo().Cluster.Leader == to {
			return true
		}
		if time.Since(asked) > between {
			asked = time.Now()
			_, _ = f.nc.RequestWithContext(asking, "$JS.API.STREAM.LEADER.STEPDOWN."+stream, body) // the next look tells
		}
		return false
	})
}

// happen breaks it, measures, and prints the line.
func (f *fault) happen(ctx context.Context) error {
	for _, s := range f.sets {
		f.expected = s.names() // the same in each
	}
	strike, err := f.aim(ctx)
	if err != nil {
		return err
	}
	f.at = time.Now()
	for _, s := range f.sets {
		s.reset(f.at)
	}
	if err := strike(); err != nil {
		return fmt.Errorf("%s: %w", f.what, err)
	}
	outcomes := make([]outcome, len(f.sets))
	var g errgroup.Group
	for i, s := range f.sets {
		g.Go(func() (err error) {
			outcomes[i], err = f.recovered(ctx, s)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	f.report.line(f, outcomes)
	return nil
}

// aim finds what is to break.
func (f *fault) aim(ctx context.Context) (strike func() error, err error) {
	switch {
	case f.kind.ofEmitter():
		return f.aimAtEmitters(ctx)
	case f.kind.ofNode():
		return f.aimAtNode(), nil
	default:
		return f.aimAtRegistration(ctx)
	}
}

func (f *fault) aimAtEmitters(ctx context.Context) (strike func() error, err error) {
	var leaders []*testbed.Program
	for _, s := range f.sets {
		var leader *testbed.Program
		var last error
		if err := testbed.Until(ctx, func() bool {
			leader, last = s.leadingEmitter(ctx, f.js)
			return last == nil
		}); err != nil {
			return nil, fmt.Errorf("find the leader of %s: %w: %w", s.store, err, last)
		}
		leaders = append(leaders, leader)
	}
	with := os.Signal(syscall.SIGTERM)
	if f.kind == emitterKilled {
		with = syscall.SIGKILL
	}
	f.what = f.kind.of(leaders[0].Name)
	return func() error {
		for _, leader := range leaders {
			if err := leader.Signal(with); err != nil {
				return err
			}
			f.broken = append(f.broken, func(ctx context.Context) error {
				return errors.Join(leader.Stop(), leader.Start(ctx))
			})
		}
		return nil
	}, nil
}

func (f *fault) aimAtRegistration(ctx context.Context) (strike func() error, err error) {
	victim := &f.sets[0].subscriptions[f.subscription]
	f.what, f.expected = f.kind.of(victim.name), []string{victim.name}
	bucket, err := f.js.KeyValue(ctx, kv.DefaultBucket)
	if err != nil {
		return nil, err
	}
	return func() error {
		var g errgroup.Group
		for _, s := range f.sets {
			g.Go(func() error { return bucket.Delete(ctx, victim.key(s.store)) })
		}
		return g.Wait()
	}, nil
}

func (f *fault) aimAtNode() (strike func() error) {
	victim := f.nodes.Servers[f.node]
	end, gone := victim.Kill, make(chan error, 1)
	if f.kind == nodeStopped {
		end = victim.Stop
	}
	f.what = f.kind.of(victim.Name())
	return func() error {
		go func() { gone <- end() }()
		f.broken = append(f.broken, func(ctx context.Context) error {
			if err := <-gone; err != nil {
				return err
			}
			if err := victim.Restart(ctx); err != nil {
				return err
			}
			if err := f.nodes.WaitReady(ctx); err != nil {
				return err
			}
			return testbed.Until(ctx, func() bool { return f.current(ctx) })
		})
		return nil
	}
}

// current reports whether every stream has a leader, and every replica what the leader has: then any node
// may fail.
func (f *fault) current(ctx context.Context) bool {
	const timeout = 2 * time.Second
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	list := f.js.ListStreams(ctx)
	for info := range list.Info() {
		if !isCurrent(info) {
			for range list.Info() { // the lister ends when it is read to its end
			}
			return false
		}
	}
	return list.Err() == nil
}

func isCurrent(info *jetstream.StreamInfo) bool {
	c := info.Cluster
	if c == nil || c.Leader == "" || len(c.Replicas) != nodes-1 {
		return false
	}
	for _, r := range c.Replicas {
		if !r.Current || r.Offline {
			return false
		}
	}
	return true
}

// recovered waits until a set is as before: a leader, every registration in question verified anew, every
// subscriber level with what was appended meanwhile.
func (f *fault) recovered(ctx context.Context, s *set) (outcome, error) {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	since, o := f.at, outcome{verified: -1}
	err := testbed.Until(waiting, func() bool {
		if f.kind.ofEmitter() {
			at, ok := s.ledSince(f.at)
			if !ok {
				return false
			}
			since = at // what was registered before was not for the new leader
		}
		last, ok := s.verifiedSince(since, f.expected)
		if ok {
			o.verified = last.Sub(f.at)
		}
		return ok
	})
	if ctx.Err() != nil {
		return o, context.Cause(ctx)
	}
	if err != nil { // it is shown as it is: not within patience
		waiting, cancel = context.WithTimeout(ctx, quiet)
		defer cancel()
	}
	// Each subscriber gets at least one event more, so that a gap that is open ends.
	before, _ := s.ledger.progress()
	_ = testbed.Until(waiting, func() bool { sent, _ := s.ledger.progress(); return sent > before+mostApart })
	_, upTo := s.ledger.progress()
	_ = testbed.Until(waiting, func() bool { return s.ledger.settled(upTo) })
	if ctx.Err() != nil {
		return o, context.Cause(ctx)
	}
	o.delivery, o.publisher = s.ledger.pauses(upTo, time.Now())
	o.totals = s.ledger.totals(upTo)
	return o, nil
}

// mend starts again what is down. A demo that ends does without: what is left delivers everything.
func (f *fault) mend(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, mendTimeout)
	defer cancel()
	for _, mend := range f.broken {
		if err := mend(ctx); err != nil {
			return fmt.Errorf("%s, and not mended: %w", f.what, err)
		}
	}
	return nil
}
