package bench

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/service"
	"github.com/exesdb/subproxy/pkg/cluster"
)

// host is an emitter and an instance in this process, each on a connection of its own.
type host struct {
	base    func() *config.Config // without subscriptions
	emitter *service.Emitter
	service *service.Service
}

// startHost returns when the emitter leads the store. Beside is how subproxy run hosts them: what the
// emitter sends to its own process's proxies does not go over NATS. Otherwise they are as if in two
// processes.
func startHost(ctx context.Context, nc *nats.Conn, urls, store string, replicas int, beside bool) (*host, error) {
	h, err := newInstance(ctx, urls, store, replicas)
	if err == nil {
		err = h.emit(ctx, nc, store, beside)
	}
	if err != nil {
		h.stop()
		return nil, err
	}
	return h, nil
}

// newInstance starts an instance, without an emitter.
func newInstance(ctx context.Context, urls, store string, replicas int) (h *host, err error) {
	h = &host{base: func() *config.Config {
		c := benchConfig(urls, 0, replicas)
		c.Instance.Name += "-" + store // others of this run live beside it
		c.Stores = []config.Store{{ID: store, Stream: config.StoreStream{Replicas: replicas, Storage: "file"}}}
		return c
	}}
	h.service, err = service.Start(ctx, service.Options{Config: h.base(), Version: "0.0.0-bench", Logger: slog.New(slog.DiscardHandler)})
	return h, err
}

// emit starts the emitter, and returns when it leads.
func (h *host) emit(ctx context.Context, nc *nats.Conn, store string, beside bool) error {
	leads := make(chan struct{}, 1)
	told, err := nc.Subscribe(cluster.LeaderChangedSubject, func(m *nats.Msg) {
		var e struct {
			Store string `json:"store"`
		}
		if json.Unmarshal(m.Data, &e) == nil && e.Store == store {
			select {
			case leads <- struct{}{}:
			default:
			}
		}
	})
	if err != nil {
		return err
	}
	defer func() { _ = told.Unsubscribe() }()
	if err := nc.Flush(); err != nil {
		return err
	}
	o := service.EmitterOptions{Config: h.base(), Logger: slog.New(slog.DiscardHandler)}
	if beside {
		o.Beside = h.service
	}
	if h.emitter, err = service.StartEmitter(ctx, o); err != nil {
		return err
	}
	select {
	case <-leads:
		return nil
	case <-time.After(30 * time.Second):
		return errors.New("the emitter was not elected within 30 s")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hold makes the subscriptions those that the instance holds.
func (h *host) hold(subs []config.Subscription) error {
	c := h.base()
	c.Stores[0].Subscriptions = subs
	return h.service.Reload(c)
}

func (h *host) stop() {
	if h.service != nil {
		stopService(h.service)
	}
	if h.emitter != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = h.emitter.Stop(ctx) // the figures are there already
	}
}
