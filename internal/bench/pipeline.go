package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Sinks are the sinks that Delivery measures.
var Sinks = []string{"publish", "request", "stream", "handler"}

// pipeline is one way for all of a store's events to get to a subscriber.
type pipeline struct {
	name string
	at   *filledStore
	// share: it gets one in so many of the events where the others get all. One that waits for an answer to
	// each event is many times slower.
	share    int
	targeted bool // the design has a target for it
	// start begins with the event of that sequence, new each time. got is called for each event, one at a
	// time.
	start func(ctx context.Context, from uint64, got func(data []byte)) (stop func(), err error)
}

// filledStore is a store with events that pipelines read.
type filledStore struct {
	stream jetstream.Stream
	writer *writer
}

// ordered is bare nats.go, an ordered consumer: nothing is acknowledged.
func ordered(js jetstream.JetStream, stream string) *pipeline {
	return &pipeline{name: "ordered", share: 1, start: func(ctx context.Context, from uint64, got func([]byte)) (func(), error) {
		c, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from})
		if err != nil {
			return nil, err
		}
		consuming, err := c.Consume(func(m jetstream.Msg) { got(m.Data()) })
		if err != nil {
			return nil, err
		}
		return consuming.Stop, nil
	}}
}

// Tuned settings of a durable consumer: more of either made nothing faster.
const (
	tunedPull       = 5_000
	tunedAckPending = 20_000
)

// durable is bare nats.go, a durable consumer with explicit acknowledgement that only reads, as it comes or
// tuned.
func durable(js jetstream.JetStream, stream string, tuned bool) *pipeline {
	name := "durable"
	if tuned {
		name += ", tuned"
	}
	started := 0
	return &pipeline{name: name, share: 1, start: func(ctx context.Context, from uint64, got func([]byte)) (func(), error) {
		started++
		return consume(ctx, js, stream, fmt.Sprintf("bench_%t_%d", tuned, started), tuned, from, func(m jetstream.Msg) {
			got(m.Data())
			_ = m.Ack() // fails only without a connection
		})
	}}
}

// passing is bare nats.go that does the work of emitter, proxy and sink publish as most workers are
// written: a durable consumer that publishes each event on, headers and all, to a subscriber on another
// connection, and acknowledges it then. Nothing is waited for: the connection keeps the order of the two.
// It is tuned; acknowledging in batches is not for explicit acknowledgement.
func passing(js jetstream.JetStream, stream string, nc *nats.Conn) *pipeline {
	started := 0
	return &pipeline{name: "durable, passing on", share: 1, start: func(ctx context.Context, from uint64, got func([]byte)) (func(), error) {
		started++
		subject, sub, err := receive(nc, fmt.Sprintf("passed.%d", started), got)
		if err != nil {
			return nil, err
		}
		stop, err := consume(ctx, js, stream, fmt.Sprintf("bench_passing_%d", started), true, from, func(m jetstream.Msg) {
			_ = js.Conn().PublishMsg(&nats.Msg{Subject: subject, Header: m.Headers(), Data: m.Data()}) // fails only without a connection
			_ = m.Ack()
		})
		if err != nil {
			return nil, err
		}
		return func() {
			stop()
			_ = sub.Unsubscribe()
		}, nil
	}}
}

// receive subscribes to a subject that events are published on to.
func receive(nc *nats.Conn, name string, got func([]byte)) (subject string, sub *nats.Subscription, err error) {
	subject = outPrefix + name
	if sub, err = nc.Subscribe(subject, func(m *nats.Msg) { got(m.Data) }); err != nil {
		return "", nil, err
	}
	return subject, sub, errors.Join(sub.SetPendingLimits(-1, -1), nc.Flush())
}

// consume reads a durable consumer with explicit acknowledgement.
func consume(ctx context.Context, js jetstream.JetStream, stream, name string, tuned bool, from uint64, each func(jetstream.Msg)) (stop func(), err error) {
	cfg, opts := jetstream.ConsumerConfig{
		Durable: name, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
	}, []jetstream.PullConsumeOpt(nil)
	if tuned {
		cfg.MaxAckPending, opts = tunedAckPending, append(opts, jetstream.PullMaxMessages(tunedPull))
	}
	c, err := js.CreateConsumer(ctx, stream, cfg)
	if err != nil {
		return nil, err
	}
	consuming, err := c.Consume(each, opts...)
	if err != nil {
		return nil, err
	}
	return func() {
		consuming.Stop()
		<-consuming.Closed()
		_ = js.DeleteConsumer(context.WithoutCancel(ctx), stream, name)
	}, nil
}

// relay is the least that passing on costs, with no guarantee at all: an ordered consumer that publishes
// each event on.
func relay(js jetstream.JetStream, stream string, nc *nats.Conn) *pipeline {
	started := 0
	return &pipeline{name: "relay", share: 1, start: func(ctx context.Context, from uint64, got func([]byte)) (func(), error) {
		started++
		subject, sub, err := receive(nc, fmt.Sprintf("relay.%d", started), got)
		if err != nil {
			return nil, err
		}
		c, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from})
		if err != nil {
			return nil, err
		}
		consuming, err := c.Consume(func(m jetstream.Msg) {
			_ = js.Conn().PublishMsg(&nats.Msg{Subject: subject, Header: m.Headers(), Data: m.Data()}) // fails only without a connection
		})
		if err != nil {
			return nil, err
		}
		return func() {
			consuming.Stop()
			_ = sub.Unsubscribe()
		}, nil
	}}
}

// outPrefix begins the subjects that sinks forward to.
const outPrefix = "bench.out."

// proxied is emitter, proxy and sink, and a subscriber that does what the sink asks of it, in plain
// nats.go.
func proxied(h *host, nc *nats.Conn, name, kind string) *pipeline {
	started := 0
	share := 1
	if kind != "publish" {
		share = 10
	}
	return &pipeline{name: name + ", sink " + kind, share: share, targeted: kind == "publish", start: func(ctx context.Context, from uint64, got func([]byte)) (func(), error) {
		started++
		name := fmt.Sprintf("%s_%d", kind, started)
		subject := fmt.Sprintf("%s%s.%d", outPrefix, kind, started)
		handle := func(m *nats.Msg) { got(m.Data) }
		listen := subject
		switch kind {
		case "request":
			handle = func(m *nats.Msg) {
				got(m.Data)
				_ = m.Respond(nil) // fails only without a connection
			}
		case "stream":
			listen = fmt.Sprintf("%s%d", storedPrefix, started)
		}
		sub, err := nc.Subscribe(listen, handle)
		if err != nil {
			return nil, err
		}
		if err := sub.SetPendingLimits(-1, -1); err != nil {
			return nil, err
		}
		if err := nc.Flush(); err != nil {
			return nil, err
		}
		err = h.hold([]config.Subscription{{
			Name: name, Type: string(subscription.ByStream), Selector: subscription.AllStreams, StartVersion: int64(from),
			Forward: &config.Forward{Sink: kind, Subject: subject, Timeout: 5 * time.Second, MaxDeliver: 5},
		}})
		return func() {
			_ = h.hold(nil)
			_ = sub.Unsubscribe()
		}, err
	}}
}

// storedPrefix begins the subjects on which the stream that sink stream forwards to republishes what it has
// stored, which is when the event counts.
const storedPrefix = "bench.stored."

func createTarget(ctx context.Context, nc *nats.Conn, replicas int) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	_, err = connect.Ask(ctx, func(ctx context.Context) (jetstream.Stream, error) {
		return js.CreateStream(ctx, jetstream.StreamConfig{
			Name: "BENCH_OUT", Subjects: []string{outPrefix + "stream.*"}, Replicas: replicas, AllowAtomicPublish: true,
			RePublish: &jetstream.RePublish{Source: outPrefix + "stream.>", Destination: storedPrefix + ">"},
		})
	})
	return err
}
