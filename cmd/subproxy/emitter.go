package main

import (
	"context"
	"log/slog"
	"net"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/logging"
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
		Args:    args(0, 0, "no arguments"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.emit(cmd) },
	}
	f.nats.add(cmd)
	f.addCommon(cmd)
	return cmd
}

func (f *runFlags) emit(cmd *cobra.Command) error {
	ctx := cmd.Context()
	if f.config == "" {
		return usagef("give a configuration with --config FILE (subproxy check --defaults prints one)")
	}
	cfg, err := f.load()
	if err != nil {
		return err
	}
	log, err := logging.New(os.Stderr, cfg.Log.Level, cfg.Log.Format)
	if err != nil {
		return usagef("%w", err)
	}
	var listener net.Listener
	if cfg.HTTP.Addr != "" {
		if listener, err = web.Listen(cfg.HTTP.Addr); err != nil {
			return err
		}
		defer listener.Close()
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	e, err := service.StartEmitter(ctx, service.EmitterOptions{Config: cfg, Logger: log, Metrics: emitter.NewMetrics(reg)})
	if err != nil {
		return unlessStopped(ctx, err, log)
	}
	if listener != nil {
		server := web.ServeEmitter(listener, e, reg, cfg.HTTP.PProf, log)
		defer closeServer(server, log)
		log.Info("serving HTTP", "addr", server.Addr())
	}
	log.Info("emitter runs", "name", e.Owner().Name, "id", e.Owner().ID, "stores", len(cfg.Stores))
	<-ctx.Done()
	log.Info("stopping: writing checkpoints, giving leaderships back")
	stopEmitter(ctx, e, log)
	log.Info("stopped")
	return nil
}

func stopEmitter(ctx context.Context, e *service.Emitter, log *slog.Logger) {
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := e.Stop(stopping); err != nil {
		log.Warn("the emitter did not end in good order", "error", err)
	}
}
