package bench

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/testbed"
)

// LinksOptions say what Links measures.
type LinksOptions struct {
	Events   int // old ones, that each round delivers
	Size     int // bytes of an event's data
	Delay    time.Duration
	Rate     int // bytes a second each way; 0: no limit
	Rounds   int
	Progress io.Writer
}

// leastOverALink is the design's bound.
const leastOverALink = 0.8

// Links measures how old events get to a subscriber whose server is far away, beside a tuned durable consumer
// over the same link.
func Links(ctx context.Context, o LinksOptions) (*Report, error) {
	server, err := testbed.StartNodes(ctx, 1, natsnode.Options{})
	if err != nil {
		return nil, err
	}
	defer server.Shutdown()
	relay, err := testbed.NewRelay(server.URLs(), testbed.Link{Delay: o.Delay, Rate: o.Rate})
	if err != nil {
		return nil, err
	}
	defer relay.Close()
	setup := fmt.Sprintf("an embedded server behind a relay with a round trip of %s", 2*o.Delay)
	if o.Rate > 0 {
		setup += fmt.Sprintf(" and %d bytes a second each way", o.Rate)
	}
	d := &delivery{
		DeliveryOptions: DeliveryOptions{Events: o.Events, Servers: 1, Size: o.Size, Rounds: o.Rounds, Progress: o.Progress}, urls: server.URLs(),
		report: &Report{Bench: "links", Setup: fmt.Sprintf("%s, %d old events with %d bytes of data, everything in one process, %d CPU(s), %s",
			setup, o.Events, o.Size, runtime.NumCPU(), runtime.Version())},
	}
	defer d.disconnect()
	if d.nc, err = d.connect("setup"); err != nil {
		return nil, err
	}
	if err := d.overLink(ctx, relay.URL()); err != nil {
		return nil, err
	}
	d.report.target("clients that the server gave up as slow", float64(server.Servers[0].Server().NumSlowConsumers()), 0, "")
	d.report.target("events delivered twice", float64(d.surplus), 0, "")
	d.report.note("durable, tuned: a nats.go durable consumer with explicit acknowledgement that only reads, with PullMaxMessages %d and "+
		"MaxAckPending %d, created for the round. subproxy: emitter and instance as subproxy run hosts both, running; a subscription is added "+
		"for the round, registered, and read from the first event. From first event: from the first event that arrived to the last. "+
		"With the setting up: from the request that creates the consumer, or the subscription.", tunedPull, tunedAckPending)
	return d.report, nil
}

// overLink measures everything over the link that begins at url.
func (d *delivery) overLink(ctx context.Context, url string) error {
	const store = "bench_link"
	at, err := d.fill(ctx, store)
	if err != nil {
		return err
	}
	far, err := nats.Connect(url, nats.Name("bench far"), nats.Timeout(20*time.Second))
	if err != nil {
		return err
	}
	d.conns = append(d.conns, far)
	js, err := jetstream.New(far)
	if err != nil {
		return err
	}
	starting, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	fmt.Fprintln(d.Progress, "starting subproxy over the link…")
	hosted, err := startHost(starting, d.nc, url, store, 1, true)
	if err != nil {
		return err
	}
	defer hosted.stop()
	near, err := d.connect("subscriber")
	if err != nil {
		return err
	}
	all := []*pipeline{durable(js, at.stream.CachedInfo().Config.Name, true), proxied(hosted, near, "subproxy", "publish")}
	rates, whole := make([][]float64, len(all)), make([][]float64, len(all))
	for round := range d.Rounds + 1 {
		fmt.Fprintf(d.Progress, "round %d of %d…\n", round, d.Rounds)
		for i, p := range all {
			t := newCounter(d.Events)
			var first time.Time
			began := time.Now()
			stop, err := p.start(ctx, 1, func(data []byte) {
				if first.IsZero() {
					first = time.Now()
				}
				t.one(data)
			})
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			err = t.wait(ctx)
			ended := time.Now()
			stop()
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			d.surplus += t.surplus()
			if round > 0 { // the first warms up
				rates[i] = append(rates[i], float64(d.Events)/ended.Sub(first).Seconds())
				whole[i] = append(whole[i], float64(d.Events)/ended.Sub(began).Seconds())
			}
		}
	}
	for i, p := range all {
		d.report.rates("from first event, "+p.name, slices.Clone(rates[i]), "events/s")
		d.report.rates("with the setting up, "+p.name, slices.Clone(whole[i]), "events/s")
	}
	ratio := func(of [][]float64) float64 {
		return quantile(slices.Clone(of[1]), 0.5) / quantile(slices.Clone(of[0]), 0.5)
	}
	d.report.number("from first event, against the consumer", ratio(rates), "×")
	d.report.targetAtLeast("with the setting up, against the consumer", ratio(whole), leastOverALink, "×")
	return nil
}
