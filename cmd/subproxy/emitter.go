package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/service"
	"github.com/exesdb/subproxy/internal/web"
	"github.com/exesdb/subproxy/pkg/emitter"
)

func newEmitter() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use: "emitter --config FILE", Short: "Send stores' events to whoever holds their subscriptions",
		Long: `Run an emitter: for each store of the configuration that is a JetStream stream it contends for the leadership, and
while it leads it sends the store's events to the subscriptions that are registered, from where each has acknowledged.

Any number of them can run; one leads a store. SIGTERM and SIGINT write the checkpoints and give the leadership back, and
another takes over at once; one that is killed is replaced after emitter.lease_ttl. subproxy run hosts an emitter
itself where emitter.enabled is true.`,
		Example: "  subproxy emitter --config subproxy.yaml\n  subproxy emitter --config subproxy.yaml --http 127.0.0.1:8081",
		Args:    command.Args(0, 0, "no arguments"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.emit(cmd) },
	}
	f.nats.add(cmd)
	f.addCommon(cmd)
	return cmd
}

func (f *runFlags) emit(cmd *cobra.Command) error {
	ctx := cmd.Context()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	if f.config == "" {
		return command.Usagef("give a configuration with --config FILE (subproxy check --defaults prints one)")
	}
	cfg, log, err := f.begin()
	if err != nil {
		return err
	}
	listener, err := listen(cfg)
	if err != nil {
		return err
	}
	if listener != nil {
		defer listener.Close()
	}
	reg := newRegistry()
	e, err := hostEmitter(ctx, service.EmitterOptions{Config: cfg, Logger: log, Metrics: emitter.NewMetrics(reg)})
	if err != nil {
		return unlessStopped(ctx, err, log)
	}
	if listener != nil {
		server := web.ServeEmitter(listener, e, reg, cfg.HTTP.PProf, log)
		defer closeServer(server, log)
		log.Info("serving HTTP", "addr", server.Addr())
	}
	log.Info("emitter runs", "name", cfg.Instance.Name, "id", e.running.Load().Owner().ID, "stores", len(cfg.Stores))
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-hup:
			cfg, warnings, err := f.load()
			if err == nil {
				tellWarnings(warnings, log)
				err = e.replace(ctx, cfg)
			}
			tellReload(f.config, err, log)
		}
	}
	log.Info("stopping: writing checkpoints, giving leaderships back")
	e.stop(ctx)
	log.Info("stopped")
	return nil
}

// hostedEmitter is a running emitter, which is replaced by another one where a reload changes the stores.
type hostedEmitter struct {
	options service.EmitterOptions
	running atomic.Pointer[service.Emitter]
}

func hostEmitter(ctx context.Context, o service.EmitterOptions) (*hostedEmitter, error) {
	e, err := service.StartEmitter(ctx, o)
	if err != nil {
		return nil, err
	}
	h := &hostedEmitter{options: o}
	h.running.Store(e)
	return h, nil
}

// Connected reports whether there is a NATS connection.
func (h *hostedEmitter) Connected() bool { return h.running.Load().Connected() }

// replace takes over another configuration's stores: the next emitter contends before the one of now gives
// its leases back, so that it leads at once. The connection and the numbers stay what they were at the
// start.
func (h *hostedEmitter) replace(ctx context.Context, c *config.Config) error {
	o := h.options
	next := *o.Config
	next.Stores = c.Stores
	if slices.EqualFunc(next.Stores, o.Config.Stores, func(a, b config.Store) bool { return a.ID == b.ID && a.Stream == b.Stream }) {
		return nil
	}
	o.Config = &next
	e, err := service.StartEmitter(ctx, o)
	if err != nil {
		return fmt.Errorf("the emitter goes on with the stores of before: %w", err)
	}
	h.options = o
	stopEmitter(ctx, h.running.Swap(e), o.Logger)
	return nil
}

func (h *hostedEmitter) stop(ctx context.Context) {
	stopEmitter(ctx, h.running.Load(), h.options.Logger)
}

func stopEmitter(ctx context.Context, e *service.Emitter, log *slog.Logger) {
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := e.Stop(stopping); err != nil {
		log.Warn("the emitter did not end in good order", "error", err)
	}
}
