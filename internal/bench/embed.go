package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/breaker"
	endpoints "github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// embedded is what a program has that embeds the packages to take events in a Go function.
type embedded struct {
	bucket     *kv.Bucket
	delivery   *endpoints.Delivery
	supervisor *proxy.Supervisor
	handler    atomic.Pointer[func(data []byte)]
	cancel     context.CancelFunc
	followed   chan error // holds the feed's end
}

func embed(ctx context.Context, nc *nats.Conn, replicas int) (*embedded, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	e := &embedded{followed: make(chan error, 1)}
	e.bucket, err = connect.Ask(ctx, func(ctx context.Context) (*kv.Bucket, error) {
		return kv.Open(ctx, js, kv.Config{Replicas: replicas})
	})
	if err != nil {
		return nil, err
	}
	owner := registration.Owner{Name: "bench-handler", ID: nuid.Next()}
	handler := sink.HandlerFunc(func(_ context.Context, ev *event.Event) error {
		(*e.handler.Load())(ev.Data)
		return nil
	})
	e.delivery = endpoints.New(endpoints.Options{
		Conn: nc, Owner: owner,
		Sink: func(subscription.Subscription) (sink.Sink, sink.Config) {
			return handler, sink.Config{Kind: sink.Handler, MaxDeliver: 5}
		},
		Park: func(context.Context, *sink.Event, sink.Config, string, int) error {
			return errors.New("the benchmark refuses nothing, and parks nothing")
		},
	})
	if err := e.delivery.Start(); err != nil {
		return nil, err
	}
	e.supervisor = proxy.New(proxy.Options{
		Owner: owner, Bucket: e.bucket, Delivery: e.delivery, Publish: nc.Publish, Connected: nc.IsConnected,
		Settings: proxy.Settings{
			Breaker:         breaker.Settings{MaxFailures: 5, DegradedFailures: 3, Exponential: true, Retry: 3 * time.Second, MaxBackoff: time.Minute},
			InitialInterval: time.Hour, NormalInterval: 24 * time.Hour, Verify: true, VerificationTimeout: 2 * time.Second, EventDriven: true,
			HeartbeatInterval: time.Hour, SummaryInterval: 5 * time.Second,
		},
	})
	records, err := feed.New(js, feed.Config{Stream: e.bucket.Stream(), StartSeq: 1, Handler: (*embeddedFeed)(e), First: e.supervisor.Trimmed})
	if err != nil {
		return nil, err
	}
	following, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.cancel = cancel
	go func() { e.followed <- records.Run(following) }() // stop waits for it
	return e, nil
}

func (e *embedded) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	e.supervisor.Stop(ctx)
	e.cancel()
	<-e.followed
	e.delivery.Stop()
}

// embeddedFeed is the embedded program as the handler of the registry's feed.
type embeddedFeed embedded

// Message implements feed.Handler.
func (f *embeddedFeed) Message(m feed.Message) {
	f.supervisor.Entry(f.bucket.NewEntry(m.Subject, m.Sequence, m.Header, m.Data, m.Time))
}

// Level implements feed.Handler.
func (f *embeddedFeed) Level(uint64) { f.supervisor.Begin(true) }

// Reset implements feed.Handler.
func (f *embeddedFeed) Reset(error) { f.supervisor.Void() }

// handled is emitter, proxy and a Go function.
func handled(e *embedded, store string) *pipeline {
	started := 0
	return &pipeline{name: "subproxy, sink handler", share: 1, start: func(_ context.Context, from uint64, got func([]byte)) (func(), error) {
		started++
		e.handler.Store(&got)
		e.supervisor.Apply([]subscription.Subscription{{
			Store: store, Name: fmt.Sprintf("handler_%d", started), Type: subscription.ByStream, Selector: subscription.AllStreams, StartVersion: int64(from),
		}})
		return func() { e.supervisor.Apply(nil) }, nil
	}}
}
