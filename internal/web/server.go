// Package web is what an instance shows over HTTP: Prometheus metrics, liveness, readiness and the statuses
// as JSON.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/exesdb/subproxy/internal/service"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/status"
)

// Server serves one instance.
type Server struct {
	listener net.Listener
	http     *http.Server
	ended    chan struct{} // closed when the serving goroutine has ended
}

// Listen takes the address, so that a port in use is an error at the start. Host:port; port 0 picks a free
// one.
func Listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on http.addr (--http) %s: %w", addr, err)
	}
	return l, nil
}

// Serve serves the instance on the listener until Close.
func Serve(l net.Listener, s *service.Service, gatherer prometheus.Gatherer, withPProf bool, log *slog.Logger) *Server {
	mux := newMux(s.Ready, func(ctx context.Context) string { return troubles(ctx, s) }, gatherer, withPProf)
	mux.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, r *http.Request) { serveStatus(w, r, s) })
	return start(l, mux, log)
}

// ServeEmitter serves an emitter without an instance: metrics, liveness and readiness.
func ServeEmitter(l net.Listener, e interface{ Connected() bool }, gatherer prometheus.Gatherer, withPProf bool, log *slog.Logger) *Server {
	return start(l, newMux(func(context.Context) error {
		if !e.Connected() {
			return errors.New("not connected to NATS")
		}
		return nil
	}, func(context.Context) string { return "" }, gatherer, withPProf), log)
}

// troubles are the stores whose events don't come, a line each: that is no reason to send nobody here,
// since no other instance gets them either.
func troubles(ctx context.Context, s *service.Service) (lines string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	summaries, _ := s.Supervisor().Summaries(ctx) // what is not known in time is left out
	for i := range summaries {
		if trouble := summaries[i].Trouble; trouble != "" {
			lines += "\n" + trouble
		}
	}
	return lines
}

func newMux(ready func(context.Context) error, besides func(context.Context) string, gatherer prometheus.Gatherer, withPProf bool) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(r.Context()); err != nil {
			reply(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		reply(w, http.StatusOK, "ready"+besides(r.Context()))
	})
	if withPProf {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func start(l net.Listener, mux *http.ServeMux, log *slog.Logger) *Server {
	server := &Server{listener: l, http: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}, ended: make(chan struct{})}
	go func() {
		defer close(server.ended)
		if err := server.http.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Error("the HTTP server ended", "error", err)
		}
	}()
	return server
}

// Addr is the address that is listened on.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close ends the server, letting requests under way finish within ctx.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	<-s.ended
	return err
}

func reply(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	fmt.Fprintln(w, text)
}

// Status is the answer of /api/v1/status.
type Status struct {
	status.Envelope
	Instance  control.Instance `json:"instance"`
	Connected bool             `json:"connected"` // to NATS
	Ready     bool             `json:"ready"`
	Stores    []status.Summary `json:"stores"`
	Proxies   []status.Status  `json:"proxies"`
}

// statusType is the envelope's type of the answer.
const statusType = "io.exesdb.proxy.v1.instance_status"

// serveStatus answers with everything, or what the query parameters store and name narrow it to.
func serveStatus(w http.ResponseWriter, r *http.Request, s *service.Service) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	proxies, err := s.Supervisor().Statuses(ctx, control.Request{Store: r.FormValue("store"), Name: r.FormValue("name"), Held: r.FormValue("held") != ""})
	summaries, err2 := s.Supervisor().Summaries(ctx)
	if err := errors.Join(err, err2); err != nil {
		reply(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// A client that went away meanwhile is no error of ours.
	_ = json.NewEncoder(w).Encode(Status{
		Envelope: status.NewEnvelope(statusType, time.Now()), Instance: s.Instance(), Connected: s.Connected(),
		Ready: s.Ready(ctx) == nil, Stores: summaries, Proxies: proxies,
	})
}
