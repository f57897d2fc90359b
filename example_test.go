package subproxy_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/exesdb/subproxy"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/pkg/registration"
)

// A program takes a subscription's events in a Go function. Returning an error refuses the event: it comes
// again and, once refused five times, is parked.
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
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	taken := make(chan string)
	instance, err := subproxy.Open(ctx, nc, subproxy.Options{
		Handler: func(_ context.Context, s subproxy.Subscription, e *subproxy.Event) error {
			taken <- fmt.Sprintf("%s: %d %s of %s: %s", s.Name, e.Sequence, e.Type, e.Stream, e.Data)
			return nil
		},
	}, subproxy.Subscription{Store: "greenhouse", Type: subproxy.ByEventType, Selector: "initialized:v1", Name: "mine"})
	if err != nil {
		log.Fatal(err)
	}
	defer instance.Stop(ctx)

	stop, err := emit(ctx, nc, "greenhouse", 2)
	if err != nil {
		log.Fatal(err)
	}
	defer stop()
	fmt.Println(<-taken)
	fmt.Println(<-taken)
	// Output:
	// mine: 1 initialized:v1 of greenhouse-0: {"area":12}
	// mine: 2 initialized:v1 of greenhouse-1: {"area":12}
}

// emit is the store's side, which is a process of its own as a rule: an emitter, and some events.
func emit(ctx context.Context, nc *nats.Conn, store string, events int) (stop func(), err error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	e, err := emitter.Open(ctx, js, emitter.Config{
		Stores: []emitter.Store{{Stream: emitter.StreamConfig{Store: store}}}, Candidate: registration.Owner{Name: "emitter", ID: nuid.Next()},
	})
	if err != nil {
		return nil, err
	}
	emitting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- e.Run(emitting) }()
	for i := range events {
		one := subproxy.Event{
			Store: store, Stream: fmt.Sprintf("greenhouse-%d", i), Type: "initialized:v1", ID: nuid.Next(), Time: time.Now(), Data: []byte(`{"area":12}`),
		}
		if _, err = emitter.Append(ctx, js, &one, emitter.AnyVersion); err != nil {
			break
		}
	}
	return func() { cancel(); <-ended }, err
}
