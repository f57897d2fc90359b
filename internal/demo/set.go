package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/election"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/status"
	types "github.com/exesdb/subproxy/pkg/subscription"
)

// set is a store with everything of its own: emitters, instances that hold its subscriptions, a publisher,
// subscribers.
type set struct {
	store         string
	prefix        string // of its processes' names
	timerOnly     bool
	subscriptions []subscription
	ledger        *ledger
	emitters      []*testbed.Program
	instances     []*testbed.Program

	mu       sync.Mutex
	verified map[string][]time.Time // by subscription: when it was, as its statuses say, in order
	leader   cluster.Event          // the last that was announced
	ledAt    time.Time
}

func newSet(store, prefix string, timerOnly bool, interval time.Duration) *set {
	subscriptions := greenhouse()
	return &set{
		store: store, prefix: prefix, timerOnly: timerOnly, subscriptions: subscriptions, ledger: newLedger(subscriptions, interval),
		verified: map[string][]time.Time{},
	}
}

// listen hears what the set's proxies and emitters tell, and is the subscriber of its sinks publish and
// request.
func (s *set) listen(nc *nats.Conn) error {
	token := types.EncodeToken(s.store)
	if _, err := nc.Subscribe(status.StatusPrefix+token+".*", s.status); err != nil {
		return err
	}
	if _, err := nc.Subscribe(cluster.LeaderChangedSubject, s.leads); err != nil {
		return err
	}
	for _, r := range s.ledger.readers {
		if r.sink == sink.Stream {
			continue
		}
		_, err := nc.Subscribe(r.subject(s.store), func(m *nats.Msg) {
			s.ledger.arrived(r, sequenceOf(m.Header), time.Now())
			if m.Reply != "" {
				_ = m.Respond([]byte("+ACK")) // where it fails the event comes again
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func sequenceOf(h nats.Header) uint64 {
	sequence, _ := strconv.ParseUint(h.Get(event.SequenceHeader), 10, 64)
	return sequence
}

func (s *set) status(m *nats.Msg) {
	var st status.Status
	if json.Unmarshal(m.Data, &st) != nil || !st.Verified || st.LastSuccess == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.verified[st.Name]
	if len(before) == 0 || st.LastSuccess.After(before[len(before)-1]) {
		s.verified[st.Name] = append(before, *st.LastSuccess)
	}
}

func (s *set) leads(m *nats.Msg) {
	e := cluster.Decode(cluster.LeaderChanged, m.Data, time.Now())
	var envelope status.Envelope
	if e.Store != s.store || e.Term == 0 || json.Unmarshal(m.Data, &envelope) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leader, s.ledAt = e, envelope.Timestamp
}

// verifiedSince is when the last of these subscriptions was verified, each for the first time after since;
// ok is false while one was not.
func (s *set) verifiedSince(since time.Time, names []string) (last time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		all := s.verified[name]
		i := slices.IndexFunc(all, since.Before)
		if i < 0 {
			return time.Time{}, false
		}
		if all[i].After(last) {
			last = all[i]
		}
	}
	return last, true
}

// reset begins to measure what a fault does.
func (s *set) reset(now time.Time) {
	s.ledger.reset(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.verified)
}

// ledSince is when a leader was announced after since.
func (s *set) ledSince(since time.Time) (at time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledAt, s.ledAt.After(since)
}

func (s *set) names() []string {
	names := make([]string, len(s.subscriptions))
	for i := range s.subscriptions {
		names[i] = s.subscriptions[i].name
	}
	return names
}

// configure writes what the set's processes are started with.
func (s *set) configure(w *world) error {
	create := func(name, command, ready string, held []subscription) (*testbed.Program, error) {
		p := &testbed.Program{File: w.Subproxy, Dir: w.dir, Name: s.prefix + name, Command: command, Ready: ready, Unexpected: w.fail}
		return p, p.Configure(configuration(w.urls, p.Name, s.store, s.timerOnly, held))
	}
	for i := range 2 {
		p, err := create(fmt.Sprintf("emitter-%d", i+1), "emitter", testbed.EmitterRuns, nil)
		if err != nil {
			return err
		}
		s.emitters = append(s.emitters, p)
		var held []subscription
		for _, sub := range s.subscriptions {
			if sub.instance == i {
				held = append(held, sub)
			}
		}
		if p, err = create(fmt.Sprintf("instance-%d", i+1), "run", testbed.InstanceRuns, held); err != nil {
			return err
		}
		s.instances = append(s.instances, p)
	}
	return nil
}

// ready waits until the store has a leader, and everything is registered and verified.
func (s *set) ready(ctx context.Context) error {
	if err := testbed.Until(ctx, func() bool { _, ok := s.ledSince(time.Time{}); return ok }); err != nil {
		return fmt.Errorf("wait for a leader of %s: %w", s.store, err)
	}
	if err := testbed.Until(ctx, func() bool { _, ok := s.verifiedSince(time.Time{}, s.names()); return ok }); err != nil {
		return fmt.Errorf("wait for the registrations of %s: %w", s.store, err)
	}
	return nil
}

func (s *set) programs() []*testbed.Program {
	return append(append([]*testbed.Program(nil), s.emitters...), s.instances...)
}

// publish appends events until halt is closed or ctx ends, each again and again until it is acknowledged.
func (s *set) publish(ctx context.Context, js jetstream.JetStream, interval time.Duration, halt <-chan struct{}) {
	const (
		ackWait = 500 * time.Millisecond
		pause   = 20 * time.Millisecond
	)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-halt:
			return
		case <-ctx.Done():
			return
		}
		e, kind := newEvent(s.store, n)
		for {
			attempt, cancel := context.WithTimeout(ctx, ackWait)
			sequence, err := emitter.Append(attempt, js, e, emitter.AnyVersion)
			cancel()
			if err == nil {
				s.ledger.appended(sequence, kind, time.Now())
				break
			}
			if backoff.Sleep(ctx, pause) != nil {
				return
			}
		}
	}
}

var errNoLeader = errors.New("no emitter leads")

// leadingEmitter is the program that the lease names.
func (s *set) leadingEmitter(ctx context.Context, js jetstream.JetStream) (*testbed.Program, error) {
	leases, err := js.KeyValue(ctx, clusterBucket)
	if err != nil {
		return nil, err
	}
	entry, err := leases.Get(ctx, election.LeaderKey(s.store))
	if err != nil {
		return nil, err
	}
	var lease election.LeaderRecord
	if err := json.Unmarshal(entry.Value(), &lease); err != nil {
		return nil, err
	}
	for _, p := range s.emitters {
		if p.Name == lease.Leader {
			return p, nil
		}
	}
	return nil, errNoLeader
}
