package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
)

const (
	manyRounds = 2
	// manyConsumers is how many durable consumers are still worth comparing with.
	manyConsumers = 1000
)

// many measures n subscriptions: each gets the events of a type of its own; then each gets all of fewer
// events.
func (d *delivery) many(ctx context.Context, n int) error {
	if err := d.spread(ctx, n, true, max(d.Events, n)); err != nil {
		return err
	}
	if err := d.spread(ctx, n, false, max(d.Events/n, 20)); err != nil {
		return err
	}
	if n > manyConsumers {
		return d.tooMany(ctx, n)
	}
	return nil
}

// spread measures deliveries to n subscriptions of a store with that many events.
func (d *delivery) spread(ctx context.Context, n int, apart bool, events int) error {
	store, what := fmt.Sprintf("bench_all_%d", n), fmt.Sprintf("%d subscriptions, each gets all of %d events: ", n, events)
	deliveries := n * events
	if apart {
		events -= events % n
		store, what, deliveries = fmt.Sprintf("bench_own_%d", n), fmt.Sprintf("%d subscriptions, each gets its own of %d events: ", n, events), events
	}
	if _, err := createStore(ctx, d.nc, store, d.Servers); err != nil {
		return err
	}
	fmt.Fprintf(d.Progress, "%s%d deliveries a round; writing…\n", what, deliveries)
	w, err := newWriter(d.nc, store, n, d.Size)
	if err != nil {
		return err
	}
	if err := w.fill(ctx, events); err != nil {
		return err
	}
	h, err := startHost(ctx, d.nc, d.urls, store, d.Servers, true)
	if err != nil {
		return err
	}
	defer h.stop()
	ours, err := d.connect("subscriber")
	if err != nil {
		return err
	}
	bare, err := d.connect("durable consumers")
	if err != nil {
		return err
	}
	var rates, baseline []float64
	for round := range min(d.Rounds, manyRounds) {
		rate, err := d.measureMany(ctx, deliveries, func(t *counter) (func(), error) { return holdMany(h, ours, store, n, round, apart, t) })
		if err != nil {
			return fmt.Errorf("%ssubproxy: %w", what, err)
		}
		rates = append(rates, rate)
		if n > manyConsumers {
			continue
		}
		rate, err = d.measureMany(ctx, deliveries, func(t *counter) (func(), error) { return consumeMany(ctx, bare, store, n, round, apart, t) })
		if err != nil {
			return fmt.Errorf("%snats.go durable consumers: %w", what, err)
		}
		baseline = append(baseline, rate)
	}
	p50 := d.report.rates(what+"subproxy", rates, "deliveries/s")
	if len(baseline) > 0 {
		base := d.report.rates(fmt.Sprintf("%sdurables", what), baseline, "deliveries/s")
		d.report.number(what+"ratio", p50/base, "×")
	}
	return nil
}

// measureMany returns deliveries a second, from before the first subscription is there until the last
// delivery.
func (d *delivery) measureMany(ctx context.Context, deliveries int, start func(*counter) (stop func(), err error)) (float64, error) {
	t := newCounter(deliveries)
	runtime.GC()
	begin := time.Now()
	stop, err := start(t)
	if err != nil {
		return 0, err
	}
	err = t.wait(ctx)
	took := time.Since(begin)
	if err == nil {
		err = backoff.Sleep(ctx, settle)
	}
	stop()
	d.surplus += t.surplus()
	return float64(deliveries) / took.Seconds(), errors.Join(err, backoff.Sleep(ctx, time.Second))
}

func holdMany(h *host, nc *nats.Conn, store string, n, round int, apart bool, t *counter) (stop func(), err error) {
	subs := make([]config.Subscription, n)
	for i := range subs {
		subs[i] = config.Subscription{
			Name: fmt.Sprintf("round_%d_%05d", round, i), Type: string(subscription.ByStream), Selector: subscription.AllStreams,
		}
		if apart {
			subs[i].Type, subs[i].Selector = string(subscription.ByEventType), eventType(i)
		}
	}
	sub, err := nc.Subscribe(sink.DeliveredPrefix+subscription.EncodeToken(store)+".*", func(m *nats.Msg) { t.one(m.Data) })
	if err != nil {
		return nil, err
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil, err
	}
	if err := nc.Flush(); err != nil {
		return nil, err
	}
	return func() {
		_ = h.hold(nil)
		_ = sub.Unsubscribe()
	}, h.hold(subs)
}

// consumeMany is the same with a durable consumer for each.
func consumeMany(ctx context.Context, nc *nats.Conn, store string, n, round int, apart bool, t *counter) (stop func(), err error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	stream := emitter.StreamName(store)
	var stops []func()
	stop = func() {
		for _, f := range stops {
			f()
		}
	}
	for i := range n {
		cfg := jetstream.ConsumerConfig{Durable: fmt.Sprintf("round_%d_%05d", round, i), AckPolicy: jetstream.AckExplicitPolicy}
		if apart {
			cfg.FilterSubject = ownSubject(store, i)
		}
		c, err := js.CreateConsumer(ctx, stream, cfg)
		if err != nil {
			stop()
			return nil, err
		}
		consuming, err := c.Consume(func(m jetstream.Msg) {
			t.one(m.Data())
			_ = m.Ack() // fails only without a connection
		})
		if err != nil {
			stop()
			return nil, err
		}
		stops = append(stops, func() {
			consuming.Stop()
			_ = js.DeleteConsumer(context.WithoutCancel(ctx), stream, cfg.Durable)
		})
	}
	return stop, nil
}

// ownSubject matches the events of a type.
func ownSubject(store string, i int) string {
	return "exesdb.events." + subscription.EncodeToken(store) + ".*." + subscription.EncodeToken(eventType(i))
}

// tooMany shows what becomes of that many consumers.
func (d *delivery) tooMany(ctx context.Context, n int) error {
	js, err := jetstream.New(d.nc)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("BENCH_CONSUMERS_%d", n)
	stream, err := connect.Ask(ctx, func(ctx context.Context) (jetstream.Stream, error) {
		return js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{"bench.consumers"}, Replicas: d.Servers})
	})
	if err != nil {
		return err
	}
	defer func() { _ = js.DeleteStream(context.WithoutCancel(ctx), name) }()
	for i := range n {
		_, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: fmt.Sprintf("c%05d", i), AckPolicy: jetstream.AckExplicitPolicy})
		if err != nil {
			d.report.note("%d subscriptions have no baseline: with the server's default limits, consumer %d of a stream is refused: %v", n, i+1, err)
			return nil
		}
	}
	d.report.note("%d subscriptions have no baseline here; this server takes that many consumers", n)
	return nil
}
