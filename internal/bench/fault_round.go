package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// failoverSinks are measured side by side.
var failoverSinks = []string{"publish", "request"}

func hasFault(what, fault, who string) bool {
	return strings.HasPrefix(what, fault) && strings.HasSuffix(what, who)
}

// faultRound is a publisher, subscribers, and a fault.
type faultRound struct {
	*failover
	away  string // servers that survive
	pub   *publisher
	first int // number of the first event published
	subs  []*arrivals
	ends  []func() // undo what was begun, last first
}

func (r *faultRound) close() {
	for i := len(r.ends) - 1; i >= 0; i-- {
		r.ends[i]()
	}
	r.ends = nil
}

func (r *faultRound) dialed(urls string) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := r.dial(urls)
	if err != nil {
		return nil, nil, err
	}
	r.ends = append(r.ends, nc.Close)
	js, err := jetstream.New(nc)
	return nc, js, err
}

func (r *faultRound) publisher() error {
	_, js, err := r.dialed(r.away)
	r.first = r.w.written
	r.pub = &publisher{w: r.w, js: js, every: publishEvery, acked: make([]time.Time, 0, 1<<14)}
	return err
}

// proxied adds the subscriptions through subproxy. Emits says whether this process has the emitter too.
func (r *faultRound) proxied(ctx context.Context, near, tag string, emits bool) error {
	nc, js, err := r.dialed(r.away)
	if err != nil {
		return err
	}
	stream, err := js.Stream(ctx, r.stream)
	if err != nil {
		return err
	}
	h, err := newInstance(ctx, near, failoverStore, servers)
	if err == nil && emits {
		err = h.emit(ctx, nc, failoverStore, false)
	}
	r.ends = append(r.ends, h.stop)
	if err != nil {
		return err
	}
	var held []config.Subscription
	for _, sink := range failoverSinks {
		a := newArrivals("subproxy, sink " + sink)
		subject := outPrefix + sink + "." + tag
		_, err := nc.Subscribe(subject, func(m *nats.Msg) {
			a.got(m.Data)
			if m.Reply != "" {
				_ = m.Respond(nil) // without a connection the event comes again
			}
		})
		if err != nil {
			return err
		}
		r.subs = append(r.subs, a)
		held = append(held, config.Subscription{
			Name: sink + "_" + tag, Type: string(subscription.ByStream), Selector: subscription.AllStreams,
			StartVersion: int64(stream.CachedInfo().State.LastSeq + 1),
			Forward:      &config.Forward{Sink: sink, Subject: subject, Timeout: time.Second, MaxDeliver: 1000},
		})
	}
	if err := nc.Flush(); err != nil {
		return err
	}
	return h.hold(held)
}

// placing is how often a consumer is made anew until the server wanted leads it. One of a cluster of three
// does at random.
const placing = 40

var errPlacing = errors.New("no consumer came to be led by the stream's leader")

// bare adds the baselines, led by the server that will die.
func (r *faultRound) bare(ctx context.Context, near, leader, tag string) error {
	_, js, err := r.dialed(near)
	if err != nil {
		return err
	}
	if err := r.ordered(ctx, js, leader); err != nil {
		return err
	}
	_, js, err = r.dialed(near)
	if err != nil {
		return err
	}
	return r.durable(ctx, js, leader, tag)
}

func (r *faultRound) ordered(ctx context.Context, js jetstream.JetStream, leader string) error {
	for range placing {
		a := newArrivals("nats.go ordered consumer")
		c, err := js.OrderedConsumer(ctx, r.stream, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
		if err != nil {
			return err
		}
		consuming, err := c.Consume(func(m jetstream.Msg) { a.got(m.Data()) })
		if err != nil {
			return err
		}
		if info, err := c.Info(ctx); err == nil && info.Cluster != nil && info.Cluster.Leader == leader {
			r.subs, r.ends = append(r.subs, a), append(r.ends, consuming.Stop)
			return nil
		}
		consuming.Stop()
	}
	return errPlacing
}

func (r *faultRound) durable(ctx context.Context, js jetstream.JetStream, leader, tag string) error {
	for i := range placing {
		name := fmt.Sprintf("%s_%d", tag, i)
		c, err := js.CreateConsumer(ctx, r.stream, jetstream.ConsumerConfig{Durable: name, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverNewPolicy})
		if err != nil {
			return err
		}
		gone := func() {
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			_ = js.DeleteConsumer(limited, r.stream, name)
		}
		if info := c.CachedInfo(); info.Cluster == nil || info.Cluster.Leader != leader {
			gone()
			continue
		}
		a := newArrivals("nats.go durable, explicit ack")
		consuming, err := c.Consume(func(m jetstream.Msg) {
			a.got(m.Data())
			_ = m.Ack() // without a connection the event comes again
		})
		if err != nil {
			return err
		}
		r.subs = append(r.subs, a)
		r.ends = append(r.ends, gone, consuming.Stop)
		return nil
	}
	return errPlacing
}

const (
	// steady is how long events flow before the fault and after the pause.
	steady = time.Second
	// recovery is how long everybody is given to go on.
	recovery = 45 * time.Second
)

// measure publishes, lets the fault happen, goes on until everybody gets events again, and notes what each
// saw.
func (r *faultRound) measure(ctx context.Context, fault string, happen func() error) error {
	publishing, stop := context.WithCancel(ctx)
	defer stop()
	published := make(chan error, 1)
	go func() { published <- r.pub.run(publishing) }()
	every := func(number int) func() bool {
		return func() bool {
			for _, a := range r.subs {
				if !a.has(number) {
					return false
				}
			}
			return true
		}
	}
	err := until(ctx, recovery, every(r.first))
	if err == nil {
		err = backoff.Sleep(ctx, steady)
	}
	from := time.Now()
	if err == nil {
		err = happen()
	}
	if err == nil {
		after := r.pub.count() + 1
		// What is not delivered at all shows in the account.
		err = errors.Join(notAllIsFine(until(ctx, recovery, func() bool { return r.pub.count() > after })),
			notAllIsFine(until(ctx, recovery, every(r.first+after))), backoff.Sleep(ctx, steady))
	}
	stop()
	if err := errors.Join(err, <-published); err != nil {
		return err
	}
	end := r.first + r.pub.count()
	// What a killed server had counted as delivered, and had not sent, a consumer delivers again when its
	// AckWait of 30 s is over.
	if err := notAllIsFine(until(ctx, recovery, func() bool { return r.complete(end) })); err != nil {
		return err
	}
	if err := backoff.Sleep(ctx, settle); err != nil {
		return err
	}
	r.noted(fault+": publisher's own pause", r.pub.longest(from))
	for _, a := range r.subs {
		r.noted(fault+": "+a.name, a.beyond(r.pub, from))
		who := a.name
		if strings.HasSuffix(fault, connectedToIt) {
			who += cutOff
		}
		r.counted(who, a.account(r.first, end))
	}
	return nil
}

// complete reports whether everybody got everything before that number.
func (r *faultRound) complete(end int) bool {
	for _, a := range r.subs {
		if a.account(r.first, end).lost > 0 {
			return false
		}
	}
	return true
}

// notAllIsFine lets a wait end that was in vain: the account shows what is missing.
func notAllIsFine(err error) error {
	if errors.Is(err, errNotAll) {
		return nil
	}
	return err
}
