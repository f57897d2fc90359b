package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/feed"
)

const (
	store     = "greenhouse_tycoon"
	timerOnly = "greenhouse_by_timer" // the store of the set to compare with
	nodes     = 3
	// timer is the interval of the set to compare with: a third of the default, so that a fault takes no
	// minute.
	timer = 5 * time.Second

	// startTimeout bounds how long the servers and the first registrations take, which is a few seconds.
	startTimeout = 2 * time.Minute
	// quiet is how long the last events may take to be delivered before they are lost.
	quiet = 20 * time.Second
	// mendTimeout bounds starting again what broke. A node that comes back takes up to ten seconds to have
	// everything.
	mendTimeout = time.Minute
	// lastFault is how long before the end the last fault may begin.
	lastFault = 3 * time.Second
)

// DefaultGap is how long nothing happens between two faults, at the least.
const DefaultGap = 1500 * time.Millisecond

// Options say what is shown. Out, Duration and Rate are required.
type Options struct {
	Out      io.Writer
	Duration time.Duration // of the faults; the last one is waited for
	Compare  bool          // the same beside it without cluster events
	Seed     uint64        // of what breaks, when
	Rate     int           // events a second
	// Faults ends the demo after so many; 0: by Duration.
	Faults int
	Gap    time.Duration // default DefaultGap
	// Subproxy is the program whose commands emitter and run are run; default: testbed.Subproxy.
	Subproxy string
}

var errInterrupted = errors.New("it was ended before anything was shown")

// Result is what a demo came to.
type Result struct {
	Faults     int
	Sent       int // events appended
	Delivered  int // of them, over all subscribers
	Lost       int // wanted, appended and never delivered, by sinks request and stream
	Duplicated int
	Foreign    int // delivered to who did not want them
	Dropped    int // missed by subscribers of sink publish, which promises nothing behind the server
}

// world is all that runs.
type world struct {
	Options
	dir    string
	keep   bool // the logs are of interest
	urls   string
	nodes  *testbed.Cluster[*testbed.Server]
	nc     *nats.Conn
	js     jetstream.JetStream
	sets   []*set
	rng    *rand.Rand
	report *report
	fail   context.CancelCauseFunc

	conns    []*nats.Conn
	halt     chan struct{} // closed to end the publishers
	halted   sync.Once
	working  context.CancelFunc // ends the publishers in the middle of an append, and the reader of the sink's stream
	work     sync.WaitGroup
	appended sync.WaitGroup // the publishers
}

// Run shows it, until Duration is over or ctx ends; either way what is under way is delivered, and the
// summary printed. The error is for what could not be shown, and not for what was lost.
func Run(ctx context.Context, o Options) (*Result, error) {
	running, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	w := &world{Options: o, fail: fail, rng: rand.New(rand.NewPCG(o.Seed, 0)), halt: make(chan struct{})}
	if w.Gap == 0 {
		w.Gap = DefaultGap
	}
	w.report = newReport(o)
	defer w.end()
	starting, cancel := context.WithTimeout(running, startTimeout)
	err := w.start(starting)
	cancel()
	switch {
	case ctx.Err() != nil:
		return nil, errInterrupted
	case err != nil:
		w.keep = true
		return nil, err
	}
	w.report.begin(w.urls)
	err = w.faults(running)
	if err != nil && ctx.Err() == nil { // whoever ends it wants the summary
		w.keep = true
		return nil, err
	}
	sums := w.settle()
	result := w.report.summary(sums)
	w.keep = result.Lost+result.Foreign > 0
	return result, nil
}

func (w *world) start(ctx context.Context) (err error) {
	w.report.start()
	if w.Subproxy, err = testbed.Subproxy(w.Subproxy); err != nil {
		return err
	}
	if w.dir, err = os.MkdirTemp("", "subproxy-demo-"); err != nil {
		return err
	}
	if w.nodes, err = testbed.StartServers(ctx, nodes, testbed.ServerOptions{}); err != nil {
		return err
	}
	w.urls = w.nodes.URLs()
	if w.nc, w.js, err = w.connect("subproxy demo"); err != nil {
		return err
	}
	_, err = connect.Ask(ctx, func(ctx context.Context) (jetstream.Stream, error) {
		return w.js.CreateStream(ctx, jetstream.StreamConfig{Name: sinkStream, Subjects: []string{sinkSubjects + ">"}, Replicas: nodes, AllowDirect: true})
	})
	if err != nil {
		return fmt.Errorf("create the stream that the sinks deliver to: %w", err)
	}
	interval := time.Second / time.Duration(w.Rate)
	w.sets = []*set{newSet(store, "", false, interval)}
	if w.Compare {
		w.sets = append(w.sets, newSet(timerOnly, "timer-", true, interval))
	}
	for _, s := range w.sets {
		if err := s.listen(w.nc); err != nil {
			return err
		}
		if err := s.configure(w); err != nil {
			return err
		}
	}
	if err := w.nc.Flush(); err != nil {
		return err
	}
	if err := w.startPrograms(ctx); err != nil {
		return err
	}
	return w.publish(interval)
}

// startPrograms starts one emitter, which creates the buckets, and then all the others at once.
func (w *world) startPrograms(ctx context.Context) error {
	first := w.sets[0].emitters[0]
	if err := first.Start(ctx); err != nil {
		return err
	}
	var g errgroup.Group
	for _, s := range w.sets {
		for _, p := range s.programs() {
			if p != first {
				g.Go(func() error { return p.Start(ctx) })
			}
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, s := range w.sets {
		if err := s.ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// connect connects to the node that is spared: what is counted in this process must not be lost with its
// connection.
func (w *world) connect(name string) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := nats.Connect(w.nodes.Servers[0].URL(), nats.Name(name), nats.MaxReconnects(-1), nats.IgnoreDiscoveredServers())
	if err != nil {
		return nil, nil, err
	}
	w.conns = append(w.conns, nc)
	js, err := jetstream.New(nc)
	return nc, js, err
}

// publish begins to append events, and to count those that the sinks' stream gets.
func (w *world) publish(interval time.Duration) error {
	working, cancel := context.WithCancel(context.Background())
	w.working = cancel
	w.work.Go(func() { w.readSink(working) })
	for _, s := range w.sets {
		_, js, err := w.connect("subproxy demo publisher")
		if err != nil {
			return err
		}
		w.appended.Go(func() { s.publish(working, js, interval, w.halt) })
	}
	return nil
}

// readSink counts what is stored in the sinks' stream, when it was stored. It asks again and again, because
// no consumer would come through the death of its node as soon.
func (w *world) readSink(ctx context.Context) {
	const (
		batch   = 1000
		pause   = 50 * time.Millisecond
		timeout = 2 * time.Second
	)
	type place struct {
		*ledger
		*reader
	}
	places := map[string]place{}
	for _, s := range w.sets {
		for _, r := range s.ledger.readers {
			places[r.subject(s.store)] = place{s.ledger, r}
		}
	}
	direct := feed.NewDirect(w.js, sinkStream)
	for next := uint64(1); ; {
		asking, cancel := context.WithTimeout(ctx, timeout)
		messages, _ := direct.Page(asking, next, "", batch, 0) // an error is none yet, or nobody to ask just now
		for _, m := range messages {
			next = m.Sequence + 1
			if p, ok := places[m.Subject]; ok {
				p.arrived(p.reader, sequenceOf(m.Header), m.Time)
			}
		}
		cancel()
		if backoff.Sleep(ctx, pause) != nil {
			return
		}
	}
}

// faults has one fault follow the other until it is time to end.
func (w *world) faults(ctx context.Context) error {
	began := time.Now()
	for n := 0; w.Faults == 0 || n < w.Faults; n++ {
		k := later[w.rng.IntN(len(later))]
		if n < len(inTurn) {
			k = inTurn[n]
		}
		f := &fault{world: w, kind: k, subscription: w.rng.IntN(len(greenhouse())), node: 1 + w.rng.IntN(nodes-1)}
		gap := w.Gap + time.Duration(w.rng.Int64N(int64(w.Gap)))
		if err := f.prepare(ctx); err != nil {
			return err
		}
		if backoff.Sleep(ctx, gap) != nil {
			return context.Cause(ctx)
		}
		if w.Faults == 0 && time.Since(began) > w.Duration-lastFault {
			return nil
		}
		if err := f.happen(ctx); err != nil {
			return err
		}
		if err := f.mend(ctx); err != nil {
			return err
		}
	}
	return nil
}

// settle ends the publishers and waits until everything is delivered.
func (w *world) settle() []totals {
	w.stopPublishing()
	ctx, cancel := context.WithTimeout(context.Background(), quiet)
	defer cancel()
	_ = testbed.Until(ctx, func() bool { // what is not there by then is lost
		return !slices.ContainsFunc(w.sets, func(s *set) bool {
			_, last := s.ledger.progress()
			return !s.ledger.settled(last)
		})
	})
	sums := make([]totals, len(w.sets))
	for i, s := range w.sets {
		_, last := s.ledger.progress()
		sums[i] = s.ledger.totals(last)
	}
	return sums
}

func (w *world) stopPublishing() {
	w.halted.Do(func() { close(w.halt) })
	const patience = 10 * time.Second
	late := time.AfterFunc(patience, w.working)
	defer late.Stop()
	w.appended.Wait()
}

// end ends all that was started.
func (w *world) end() {
	if w.working != nil {
		w.working()
	}
	w.appended.Wait()
	w.work.Wait()
	var g errgroup.Group
	for _, s := range w.sets {
		for _, p := range s.programs() {
			g.Go(p.Stop)
		}
	}
	_ = g.Wait()
	for _, nc := range w.conns {
		nc.Close()
	}
	if w.nodes != nil {
		w.nodes.Shutdown()
	}
	switch {
	case w.keep:
		fmt.Fprintf(w.Out, "\nThe logs of the processes are in %s.\n", w.dir)
	case strings.Contains(w.dir, "subproxy-demo-"):
		_ = os.RemoveAll(w.dir)
	}
}
