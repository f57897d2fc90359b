package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/backoff"
)

// DeliveryOptions say what Delivery measures.
type DeliveryOptions struct {
	Events        int      // that each round delivers
	Subscriptions []int    // numbers of them
	Sinks         []string // with one subscription; see Sinks
	Servers       int      // 1 or 3, embedded
	Size          int      // bytes of an event's data
	Rounds        int
	Rate          int // events a second while latency is measured; 0: it is not
	Progress      io.Writer
}

// delivery is a run of Delivery.
type delivery struct {
	DeliveryOptions
	urls    string
	nc      *nats.Conn // of the writer, and for what is set up
	conns   []*nats.Conn
	report  *Report
	surplus int64
}

// Delivery measures how fast a store's events get to subscribers, beside bare nats.go consumers of the same
// stream.
func Delivery(ctx context.Context, o DeliveryOptions) (*Report, error) {
	servers, err := testbed.StartNodes(ctx, o.Servers, natsnode.Options{})
	if err != nil {
		return nil, err
	}
	defer servers.Shutdown()
	d := &delivery{DeliveryOptions: o, urls: servers.URLs(), report: &Report{Bench: "delivery", Setup: fmt.Sprintf(
		"%d embedded server(s), replicas %d, events with %d bytes of data, everything in one process, %d CPU(s), %s",
		o.Servers, o.Servers, o.Size, runtime.NumCPU(), runtime.Version())}}
	defer d.disconnect()
	if d.nc, err = d.connect("setup"); err != nil {
		return nil, err
	}
	for _, n := range o.Subscriptions {
		if n == 1 {
			err = d.one(ctx)
		} else {
			err = d.many(ctx, n)
		}
		if err != nil {
			return nil, err
		}
	}
	d.report.note("subproxy: emitter and instance as subproxy run hosts both. apart: as two processes, with NATS in between; so is a handler, in a program that embeds the packages. ordered: a nats.go ordered consumer. durable: a nats.go durable consumer with explicit acknowledgement that only reads, as it comes; "+
		"tuned: PullMaxMessages %d, MaxAckPending %d. passing on: one, tuned, that publishes each event on to a subscriber and then acknowledges it, which is the work of emitter, proxy and sink publish. relay: an ordered consumer that publishes each event on, with no guarantee, which is the least that passing on costs. Sinks that wait for an answer get a tenth of the events. The p99 of a rate is what 99 of 100 rounds reach.", tunedPull, tunedAckPending)
	d.report.target("events delivered twice", float64(d.surplus), 0, "")
	return d.report, nil
}

func (d *delivery) connect(name string) (*nats.Conn, error) {
	nc, err := nats.Connect(d.urls, nats.Name("bench "+name))
	if err == nil {
		d.conns = append(d.conns, nc)
	}
	return nc, err
}

func (d *delivery) disconnect() {
	for _, nc := range d.conns {
		nc.Close()
	}
}

// fill fills a store.
func (d *delivery) fill(ctx context.Context, store string) (*filledStore, error) {
	stream, err := createStore(ctx, d.nc, store, d.Servers)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(d.Progress, "writing %d events…\n", d.Events)
	w, err := newWriter(d.nc, store, 10, d.Size)
	if err != nil {
		return nil, err
	}
	return &filledStore{stream, w}, w.fill(ctx, d.Events)
}

// one measures a single subscription for all events. A store has one leader, so emitter and instance that
// are apart have a store of their own, with the same in it.
func (d *delivery) one(ctx context.Context) error {
	if err := createTarget(ctx, d.nc, d.Servers); err != nil {
		return err
	}
	const one, apart = "bench_one", "bench_apart"
	here, err := d.fill(ctx, one)
	if err != nil {
		return err
	}
	all, err := d.baselines(here)
	if err != nil {
		return err
	}
	hosted, err := startHost(ctx, d.nc, d.urls, one, d.Servers, true)
	if err != nil {
		return err
	}
	defer hosted.stop()
	for _, kind := range d.Sinks {
		nc, err := d.connect("subscriber " + kind)
		if err != nil {
			return err
		}
		var c *pipeline
		if kind == "handler" {
			program, err := embed(ctx, nc, d.Servers)
			if err != nil {
				return err
			}
			defer program.stop()
			c = handled(program, one)
		} else {
			c = proxied(hosted, nc, "subproxy", kind)
		}
		c.at = here
		all = append(all, c)
	}
	if slices.Contains(d.Sinks, "publish") {
		there, err := d.fill(ctx, apart)
		if err != nil {
			return err
		}
		two, err := startHost(ctx, d.nc, d.urls, apart, d.Servers, false)
		if err != nil {
			return err
		}
		defer two.stop()
		nc, err := d.connect("subscriber apart")
		if err != nil {
			return err
		}
		c := proxied(two, nc, "subproxy apart", "publish")
		c.at = there
		all = append(all, c)
	}
	if err := d.catchUp(ctx, all); err != nil {
		return err
	}
	return d.latency(ctx, all)
}

// baselines are bare nats.go.
func (d *delivery) baselines(at *filledStore) ([]*pipeline, error) {
	var all []*pipeline
	for _, make := range []func(jetstream.JetStream, string) (*pipeline, error){
		func(js jetstream.JetStream, stream string) (*pipeline, error) { return ordered(js, stream), nil },
		func(js jetstream.JetStream, stream string) (*pipeline, error) {
			return durable(js, stream, false), nil
		},
		func(js jetstream.JetStream, stream string) (*pipeline, error) { return durable(js, stream, true), nil },
		func(js jetstream.JetStream, stream string) (*pipeline, error) {
			nc, err := d.connect("subscriber passing")
			return passing(js, stream, nc), err
		},
		func(js jetstream.JetStream, stream string) (*pipeline, error) {
			nc, err := d.connect("subscriber relay")
			return relay(js, stream, nc), err
		},
	} {
		nc, err := d.connect("baseline")
		if err != nil {
			return nil, err
		}
		js, err := jetstream.New(nc)
		if err != nil {
			return nil, err
		}
		c, err := make(js, at.stream.CachedInfo().Config.Name)
		if err != nil {
			return nil, err
		}
		c.at = at
		all = append(all, c)
	}
	return all, nil
}

// settle is what is left behind by one measurement before the next: acknowledgements, checkpoints, deleted
// consumers.
const settle = 300 * time.Millisecond

// taken is what each round of a pipeline came to.
type taken struct {
	rates []float64 // events a second
	cpu   []float64 // µs an event, of the whole process: server, pipeline and subscriber
}

// catchUp measures events that are in the stream already.
func (d *delivery) catchUp(ctx context.Context, all []*pipeline) error {
	took := make([]taken, len(all))
	for round := range d.Rounds + 1 {
		fmt.Fprintf(d.Progress, "catching up, round %d of %d…\n", round, d.Rounds)
		for i := range all {
			i = (i + round) % len(all) // none is always the one after another
			rate, cpu, err := d.readAll(ctx, all[i])
			if err != nil {
				return fmt.Errorf("%s: %w", all[i].name, err)
			}
			if round > 0 { // the first warms up
				took[i].rates, took[i].cpu = append(took[i].rates, rate), append(took[i].cpu, cpu)
			}
		}
	}
	d.compare("1 subscription, catching up: ", all, took)
	return nil
}

// The places of baselines.
const (
	durableAt = 1 // and tuned after it
	passingAt = 3
	relayAt   = 4
	ownFrom   = 5
)

// compare notes the rates, and the ratios round by round: the target is one to the faster durable consumer
// that only reads.
func (d *delivery) compare(prefix string, all []*pipeline, took []taken) {
	median := func(samples []float64) float64 { return quantile(slices.Clone(samples), 0.5) }
	for i, c := range all {
		d.report.rates(prefix+c.name, slices.Clone(took[i].rates), "events/s")
	}
	for i, c := range all {
		if cpu := median(took[i].cpu); cpu > 0 {
			d.report.number("CPU an event, "+prefix+c.name, cpu, "µs")
		}
	}
	reading := durableAt
	if median(took[durableAt+1].rates) > median(took[durableAt].rates) {
		reading++
	}
	for i := ownFrom; i < len(all); i++ {
		against := func(other int) (string, float64) {
			var ratios []float64
			for round, rate := range took[i].rates {
				ratios = append(ratios, rate/took[other].rates[round])
			}
			return prefix + all[i].name + " against " + all[other].name, median(ratios)
		}
		if all[i].targeted {
			for _, other := range []int{relayAt, passingAt} {
				name, ratio := against(other)
				d.report.number(name, ratio, "×")
			}
		}
		name, ratio := against(reading)
		if all[i].targeted {
			d.report.targetAtLeast(name, ratio, 1, "×")
		} else {
			d.report.number(name, ratio, "×")
		}
	}
}

// readAll returns how many events a second the pipeline gets, and what each took of the processors.
func (d *delivery) readAll(ctx context.Context, c *pipeline) (rate, cpu float64, err error) {
	n := d.Events / c.share
	t := newCounter(n)
	runtime.GC() // nobody pays for what the one before left
	start, used := time.Now(), cpuTime()
	stop, err := c.start(ctx, uint64(d.Events-n+1), t.one)
	if err != nil {
		return 0, 0, err
	}
	err = t.wait(ctx)
	took := time.Since(start)
	rate, cpu = float64(n)/took.Seconds(), micros(cpuTime()-used)/float64(n)
	if err == nil {
		err = backoff.Sleep(ctx, settle)
	}
	stop()
	d.surplus += t.surplus()
	return rate, cpu, errors.Join(err, backoff.Sleep(ctx, settle))
}
