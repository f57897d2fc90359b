package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy"
)

// embedded is a program that embeds an instance to take events in a Go function.
type embedded struct {
	*subproxy.Instance
	handler atomic.Pointer[func(data []byte)]
}

func embed(ctx context.Context, nc *nats.Conn, replicas int) (*embedded, error) {
	settings := subproxy.DefaultSettings()
	settings.InitialInterval, settings.NormalInterval, settings.HeartbeatInterval = time.Hour, 24*time.Hour, time.Hour
	e := &embedded{}
	var err error
	e.Instance, err = subproxy.Open(ctx, nc, subproxy.Options{
		Name: "bench-handler", Replicas: replicas, Settings: &settings,
		Handler: func(_ context.Context, _ subproxy.Subscription, ev *subproxy.Event) error {
			(*e.handler.Load())(ev.Data)
			return nil
		},
	})
	return e, err
}

func (e *embedded) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	e.Stop(ctx)
}

// handled is emitter, proxy and a Go function.
func handled(e *embedded, store string) *pipeline {
	started := 0
	return &pipeline{name: "subproxy, sink handler", share: 1, start: func(ctx context.Context, from uint64, got func([]byte)) (func(), error) {
		started++
		e.handler.Store(&got)
		one := subproxy.Subscription{
			Store: store, Name: fmt.Sprintf("handler_%d", started), Type: subproxy.ByStream, Selector: subproxy.AllStreams, StartVersion: int64(from),
		}
		return func() { _ = e.Apply(context.WithoutCancel(ctx)) }, e.Apply(ctx, one) // what takes nothing away has nothing wrong
	}}
}
