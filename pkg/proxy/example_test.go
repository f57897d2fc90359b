package proxy_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// A program that embeds the packages takes a subscription's events in a Go function. Returning an error refuses the event:
// it is delivered again and, once refused MaxDeliver times, parked.
func Example() {
	node, err := natsnode.Start(natsnode.Options{}) // yours is somewhere already
	if err != nil {
		log.Fatal(err)
	}
	defer node.Shutdown()
	nc, err := nats.Connect(node.URL(), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	bucket, err := kv.Open(ctx, js, kv.Config{})
	if err != nil {
		log.Fatal(err)
	}
	parked, err := deadletter.Open(ctx, js, deadletter.Config{})
	if err != nil {
		log.Fatal(err)
	}
	owner := registration.Owner{Name: "my-program", ID: nuid.Next()}
	seen := make(chan string)
	handler := sink.HandlerFunc(func(_ context.Context, e *event.Event) error {
		seen <- fmt.Sprintf("%d %s of %s: %s", e.Sequence, e.Type, e.Stream, e.Data)
		return nil
	})
	events := delivery.New(delivery.Options{
		Conn: nc, Owner: owner, Park: func(ctx context.Context, e *sink.Event, c sink.Config, reason string, attempts int) error {
			return sink.Park(ctx, parked, e, c, reason, attempts)
		},
		Sink: func(subscription.Subscription) (sink.Sink, sink.Config) {
			return handler, sink.Config{Kind: sink.Handler, MaxDeliver: 5}
		},
	})
	if err := events.Start(); err != nil {
		log.Fatal(err)
	}
	defer events.Stop()
	supervisor := proxy.New(proxy.Options{
		Owner: owner, Bucket: bucket, Delivery: events, Publish: nc.Publish, Connected: nc.IsConnected,
		Settings: proxy.Settings{
			Breaker:         breaker.Settings{MaxFailures: 5, DegradedFailures: 3, Exponential: true, Retry: 3 * time.Second, MaxBackoff: time.Minute},
			InitialInterval: time.Second, NormalInterval: 15 * time.Second, Verify: true, VerificationTimeout: 2 * time.Second, EventDriven: true,
			HeartbeatInterval: 30 * time.Second, SummaryInterval: 5 * time.Second,
		},
	})
	defer supervisor.Stop(ctx)
	follower := &follower{bucket, supervisor}
	records, err := feed.New(js, feed.Config{Stream: bucket.Stream(), StartSeq: 1, Handler: follower, First: supervisor.Trimmed})
	if err != nil {
		log.Fatal(err)
	}
	following, stop := context.WithCancel(ctx)
	followed := make(chan error, 1)
	go func() { followed <- records.Run(following) }()
	defer func() { stop(); <-followed }()
	listener, err := cluster.Listen(nc, cluster.Config{
		LeaderChangedSubject: cluster.LeaderChangedSubject, EmitterRestartedSubject: cluster.EmitterRestartedSubject,
		OnEvent: func(e cluster.Event) {
			supervisor.Tell(e.Store, proxy.Cluster{Cause: registration.Cause(e.Kind), Topic: e.Topic, Term: e.Term, Leader: e.Leader, SeenAt: e.SeenAt})
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	supervisor.Apply([]subscription.Subscription{{Store: "greenhouse", Type: subscription.ByEventType, Selector: "initialized:v1", Name: "mine"}})

	// The store's side, which is a process of its own as a rule.
	emits, err := emitter.Open(ctx, js, emitter.Config{
		Stores: []emitter.Store{{Stream: emitter.StreamConfig{Store: "greenhouse"}}}, Candidate: registration.Owner{Name: "emitter", ID: nuid.Next()},
	})
	if err != nil {
		log.Fatal(err)
	}
	emitting, end := context.WithCancel(ctx)
	emitted := make(chan error, 1)
	go func() { emitted <- emits.Run(emitting) }()
	defer func() { end(); <-emitted }()

	for i := range 2 {
		e := event.Event{Store: "greenhouse", Stream: fmt.Sprintf("greenhouse-%d", i), Type: "initialized:v1", ID: nuid.Next(), Time: time.Now(), Data: []byte(`{"area":12}`)}
		if _, err := emitter.Append(ctx, js, &e, emitter.AnyVersion); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(<-seen)
	fmt.Println(<-seen)
	// Output:
	// 1 initialized:v1 of greenhouse-0: {"area":12}
	// 2 initialized:v1 of greenhouse-1: {"area":12}
}

// follower passes the bucket's entries on to the supervisor.
type follower struct {
	bucket     *kv.Bucket
	supervisor *proxy.Supervisor
}

func (f *follower) Message(m feed.Message) {
	f.supervisor.Entry(f.bucket.NewEntry(m.Subject, m.Sequence, m.Header, m.Data, m.Time))
}
func (f *follower) Level(uint64) { f.supervisor.Begin(true) }
func (f *follower) Reset(error)  { f.supervisor.Void() }
