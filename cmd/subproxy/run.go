package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/logging"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/service"
	"github.com/exesdb/subproxy/internal/web"
	"github.com/exesdb/subproxy/pkg/emitter"
)

// stopTimeout bounds draining and releasing at the end: long enough for an attempt under way and 100,000
// releases.
const stopTimeout = 20 * time.Second

type runFlags struct {
	nats         natsFlags
	config       string
	embedded     bool
	embeddedPort int
	storeDir     string
	http         string
	pprof        bool
	logLevel     string
	logFormat    string
}

func newRun() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use: "run [--config FILE] [--embedded]", Short: "Run the service",
		Long: `Run the service: hold the configured subscriptions, register them anew whenever the cluster changes, and report
their health.

With --embedded a nats-server with JetStream runs in the process, so that nothing needs to be installed; without a
configuration file it then runs a small built-in example. SIGTERM and SIGINT drain and release; SIGHUP reads the
configuration again: added subscriptions start, removed ones are released, changed ones restart, the rest don't notice,
and a file with mistakes changes nothing.

Flags win over the environment (SUBPROXY_…), which wins over the file.`,
		Example: "  subproxy run --embedded\n  subproxy run --config subproxy.yaml --nats nats://127.0.0.1:4222 --http 127.0.0.1:8080",
		Args:    command.Args(0, 0, "no arguments"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.nats.add(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&f.embedded, "embedded", false, "run a nats-server with JetStream in the process")
	flags.IntVar(&f.embeddedPort, "embedded-port", 4222, "`PORT` of the embedded server on loopback; 0, or one in use: any free port")
	flags.StringVar(&f.storeDir, "store-dir", "", "`DIR` of the embedded server's data (default: temporary, removed at the end)")
	f.addCommon(cmd)
	return cmd
}

// addCommon adds what run and emitter share.
func (f *runFlags) addCommon(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.config, "config", "c", "", "configuration `FILE`; see subproxy check --defaults")
	flags.StringVar(&f.http, "http", "", "`ADDR` (host:port) of /metrics, /healthz, /readyz and, of run, /api/v1/status (default: off)")
	flags.BoolVar(&f.pprof, "pprof", false, "serve /debug/pprof on the HTTP address")
	flags.StringVar(&f.logLevel, "log-level", "", "`LEVEL`: debug, info, warn or error (default info)")
	flags.StringVar(&f.logFormat, "log-format", "", "`FORMAT`: auto, text or json (default auto: text on a terminal)")
}

func (f *runFlags) run(cmd *cobra.Command) error {
	ctx := cmd.Context()
	// From the first moment on: a SIGHUP while NATS is waited for must not end the process.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	cfg, log, err := f.begin()
	if err != nil {
		return err
	}
	if f.embedded {
		node, err := startEmbedded(f.embeddedPort, f.storeDir, log)
		if err != nil {
			return err
		}
		defer node.Shutdown()
		cfg.NATS = config.NATS{URL: node.URL()}
	}
	// The address is taken first: a port in use must not cost a registration.
	listener, err := listen(cfg)
	if err != nil {
		return err
	}
	if listener != nil {
		defer listener.Close()
	}
	reg := newRegistry()
	if err := somethingToDo(cfg); err != nil {
		return err
	}
	s, err := service.Start(ctx, service.Options{Config: cfg, Version: command.Version(), Logger: log, Metrics: service.NewMetrics(reg)})
	if err != nil {
		return unlessStopped(ctx, err, log)
	}
	reg.MustRegister(web.NewCollector(s, cfg.Metrics.SubscriptionLabelLimit))
	var emits *hostedEmitter
	if cfg.Emitter.Enabled {
		emits, err = hostEmitter(ctx, service.EmitterOptions{Config: cfg, Logger: log, Metrics: emitter.NewMetrics(reg), Beside: s})
		if err != nil {
			stop(ctx, s, nil, log)
			return unlessStopped(ctx, err, log)
		}
	}
	if listener != nil {
		server := web.Serve(listener, s, reg, cfg.HTTP.PProf, log)
		defer closeServer(server, log)
		log.Info("serving HTTP", "addr", server.Addr())
	}
	if f.example() {
		printExample(cmd.OutOrStdout(), cfg.NATS.URL, listener)
		go func() { _ = watchStatus(ctx, cmd.OutOrStdout(), &natsFlags{url: cfg.NATS.URL}, "", "", false) }()
	}
	f.serve(ctx, hup, s, emits, log)
	log.Info("stopping: draining and releasing")
	stop(ctx, s, emits, log)
	log.Info("stopped")
	return nil
}

// begin reads the configuration, and makes the log that it says.
func (f *runFlags) begin() (*config.Config, *slog.Logger, error) {
	cfg, warnings, err := f.load()
	if err != nil {
		return nil, nil, err
	}
	log, err := logging.New(os.Stderr, cfg.Log.Level, cfg.Log.Format)
	if err != nil {
		return nil, nil, command.Usagef("%w", err)
	}
	tellWarnings(warnings, log)
	return cfg, log, nil
}

// tellWarnings logs what is no mistake in a configuration, and probably not what is meant.
func tellWarnings(warnings config.Problems, log *slog.Logger) {
	for _, w := range warnings {
		log.Warn("the configuration says what is probably not meant", "where", w.String())
	}
}

// listen takes the HTTP address; nil where there is none.
func listen(cfg *config.Config) (net.Listener, error) {
	if cfg.HTTP.Addr == "" {
		return nil, nil
	}
	return web.Listen(cfg.HTTP.Addr)
}

func newRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// stop stops the instance and then the emitter, which so hears what the proxies acknowledge last.
func stop(ctx context.Context, s *service.Service, emits *hostedEmitter, log *slog.Logger) {
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	s.Stop(stopping)
	if emits != nil {
		emits.stop(ctx)
	}
}

// unlessStopped is the error of a start, or nil where it was told to stop before it had started.
func unlessStopped(ctx context.Context, err error, log *slog.Logger) error {
	if ctx.Err() == nil {
		return err
	}
	log.Info("stopped while it was starting", "doing", err)
	return nil
}

// somethingToDo refuses a configuration that would hold nothing and emit nothing.
func somethingToDo(cfg *config.Config) error {
	for _, s := range cfg.Stores {
		if len(s.Subscriptions) > 0 {
			return nil
		}
	}
	if cfg.Emitter.Enabled {
		return nil
	}
	return errors.New("the configuration has no subscriptions to hold, and emitter.enabled is false; write subscriptions under a store, or run subproxy emitter")
}

// example reports whether the built-in example runs.
func (f *runFlags) example() bool { return f.embedded && f.config == "" }

func (f *runFlags) load() (cfg *config.Config, warnings config.Problems, err error) {
	switch {
	case f.config != "":
		cfg, warnings, err = config.LoadWithWarnings(f.config, os.LookupEnv)
	case f.embedded:
		cfg = config.Greenhouse()
		cfg.Emitter.Enabled = true
	default:
		return nil, nil, command.Usagef("give a configuration with --config FILE (subproxy check --defaults prints one), or try the built-in example with --embedded")
	}
	if err != nil {
		return nil, nil, err
	}
	f.override(cfg)
	return cfg, warnings, nil
}

// override puts the flags that were given in place of what the file and the environment say.
func (f *runFlags) override(cfg *config.Config) {
	set := func(to *string, flag string) {
		if flag != "" {
			*to = flag
		}
	}
	n := &f.nats
	if n.context != "" && n.url == "" {
		cfg.NATS.URL = ""
	}
	set(&cfg.NATS.URL, n.url)
	if n.url != "" && n.context == "" {
		cfg.NATS.Context = ""
	}
	set(&cfg.NATS.Context, n.context)
	n.overrideUser(&cfg.NATS)
	if n.domain != "" || n.apiPrefix != "" {
		cfg.NATS.Domain, cfg.NATS.APIPrefix = n.domain, n.apiPrefix
	}
	set(&cfg.NATS.InboxPrefix, n.inboxPrefix)
	set(&cfg.NATS.TLS.CA, n.tlsCA)
	set(&cfg.NATS.TLS.Cert, n.tlsCert)
	set(&cfg.NATS.TLS.Key, n.tlsKey)
	cfg.NATS.TLS.HandshakeFirst = cfg.NATS.TLS.HandshakeFirst || n.tlsHandshakeFirst
	set(&cfg.HTTP.Addr, f.http)
	cfg.HTTP.PProf = cfg.HTTP.PProf || f.pprof
	set(&cfg.Log.Level, f.logLevel)
	set(&cfg.Log.Format, f.logFormat)
}

// serve waits for the end, and reads the configuration again on each SIGHUP.
func (f *runFlags) serve(ctx context.Context, hup <-chan os.Signal, s *service.Service, emits *hostedEmitter, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			f.reload(ctx, s, emits, log)
		}
	}
}

func (f *runFlags) reload(ctx context.Context, s *service.Service, emits *hostedEmitter, log *slog.Logger) {
	if f.config == "" {
		log.Warn("SIGHUP: there is no configuration file to read again")
		return
	}
	cfg, warnings, err := f.load()
	if err == nil {
		tellWarnings(warnings, log)
		if f.embedded {
			cfg.NATS = config.NATS{URL: s.URL()}
		}
		err = s.Reload(cfg)
		if err == nil && emits != nil {
			err = emits.replace(ctx, cfg)
		}
	}
	tellReload(f.config, err, log)
}

// tellReload logs what became of a SIGHUP.
func tellReload(file string, err error, log *slog.Logger) {
	var problems config.Problems
	switch {
	case errors.As(err, &problems):
		for _, p := range problems {
			log.Error("SIGHUP: the configuration has a mistake", "where", p.String())
		}
		log.Error("SIGHUP: nothing was changed", "file", file, "mistakes", len(problems))
	case err != nil:
		log.Error("SIGHUP: the configuration was not taken over", "file", file, "error", err)
	default:
		log.Info("SIGHUP: configuration taken over", "file", file)
	}
}

// startEmbedded starts the server on the port asked for, or on any free one where that is taken.
func startEmbedded(port int, storeDir string, log *slog.Logger) (*natsnode.Node, error) {
	node, err := natsnode.Start(natsnode.Options{Name: "embedded", Port: port, StoreDir: storeDir, Logger: log})
	if err != nil && port != 0 {
		log.Warn("the embedded server's port is taken; using a free one", "port", port, "error", err)
		node, err = natsnode.Start(natsnode.Options{Name: "embedded", StoreDir: storeDir, Logger: log})
	}
	if err != nil {
		return nil, fmt.Errorf("start the embedded server: %w", err)
	}
	return node, nil
}

func closeServer(server *web.Server, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := server.Close(ctx); err != nil {
		log.Debug("close the HTTP server", "error", err)
	}
}

// program is how to call this program again: what `go run` built is gone when it ends.
func program() string {
	if strings.Contains(os.Args[0], "go-build") {
		return "go run ./cmd/subproxy"
	}
	return os.Args[0]
}

func printExample(w io.Writer, url string, listener net.Listener) {
	server := ""
	if url != "nats://127.0.0.1:4222" {
		server = " -s " + url
	}
	fmt.Fprintf(w, `subproxy runs the built-in example: the subscriptions of store greenhouse_tycoon, in an embedded nats-server at %s.
In another terminal (the nats CLI: go install github.com/nats-io/natscli/nats@v0.5.1):

  watch everything        nats%[2]s sub 'exesdb.>'
  move the leader         nats%[2]s pub exesdb.cluster.leader_changed '{"store":"greenhouse_tycoon","leader":"n2"}'
  restart the emitters    nats%[2]s pub exesdb.emitter.restarted '{"store":"greenhouse_tycoon"}'
  look at registrations   nats%[2]s kv ls exesdb_subscriptions
  ask for the health      %[3]s status%[2]s
`, url, server, program())
	if listener != nil {
		fmt.Fprintf(w, "  metrics                 curl http://%s/metrics\n", listener.Addr())
	}
	fmt.Fprint(w, "\nEach line below is a subscription whose status changed. Ctrl-C drains, releases and ends.\n\n")
}
