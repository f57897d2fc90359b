package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nuid"

	"github.com/exesdb/subproxy/internal/natsnode"
)

const loopback = "127.0.0.1"

var (
	// ErrNotRunning is returned for a signal to a server that does not run.
	ErrNotRunning = errors.New("the nats-server process does not run")

	errEnded = errors.New("it ended before it accepted connections")
)

// ServerOptions of a server that runs as a child process on loopback. The zero value is a single one on a
// free port with a temporary store.
type ServerOptions struct {
	Program  string // whose ServerCommand is run; default: this one
	Name     string // default: a unique one
	StoreDir string // default: a temporary directory, removed by Shutdown
	Port     int    // default: a free one, kept until Shutdown
	Alone    bool   // it tells clients of no other server

	Users      []*server.User // default: everybody may do everything
	NoAuthUser string         // whom the server takes a client for that does not say

	Stderr io.Writer // takes what the child says on standard error; nil: nobody does
}

// Server is a nats-server in a child process, which can be killed (SIGKILL) and paused (SIGSTOP) as a
// machine would be. It keeps its name, ports and store from one start to the next. Its methods can be
// called from any goroutine.
type Server struct {
	program string
	config  serverConfig
	stderr  io.Writer

	lifecycle sync.Mutex // one start or stop at a time; guards the two below
	reserved  []*natsnode.Port
	closed    bool

	current atomic.Pointer[serverRun]
}

// serverRun is one run of a Server.
type serverRun struct {
	*Child[serverReport]
	ready chan struct{} // closed at the first report

	mu   sync.Mutex
	last serverReport
}

// StartServer starts a server. It accepts connections when StartServer returns; ctx bounds only that.
func StartServer(ctx context.Context, o ServerOptions) (*Server, error) {
	return startServer(ctx, o, nil)
}

// startServer starts a server as one of a cluster, where that is given.
func startServer(ctx context.Context, o ServerOptions, cluster *clusterConfig) (*Server, error) {
	s := &Server{program: o.Program, stderr: o.Stderr, config: serverConfig{
		Name: o.Name, StoreDir: o.StoreDir, Port: o.Port, Alone: o.Alone, Cluster: cluster, access: access{o.Users, o.NoAuthUser},
	}}
	err := s.fill()
	if err == nil {
		s.lifecycle.Lock()
		err = s.start(ctx)
		s.lifecycle.Unlock()
	}
	if err != nil {
		s.Shutdown()
		return nil, err
	}
	return s, nil
}

// fill sets the defaults, once, so that every start has the same.
func (s *Server) fill() (err error) {
	c := &s.config
	if c.Name == "" {
		c.Name = nuid.Next()
	}
	if c.StoreDir == "" {
		if c.StoreDir, err = os.MkdirTemp("", "subproxy-nats-"); err != nil {
			return err
		}
		c.Temporary = true
	}
	if c.Port == 0 {
		port, err := natsnode.Reserve(loopback)
		if err != nil {
			return err
		}
		s.reserved, c.Port = append(s.reserved, port), port.Number
	}
	return nil
}

func (s *Server) start(ctx context.Context) error {
	r := &serverRun{ready: make(chan struct{})}
	var err error
	r.Child, err = StartChild(s.program, ServerCommand, s.config, s.stderr, r.heard)
	if err == nil {
		if err = r.awaitReady(ctx); err != nil {
			_ = r.Kill()
		}
	}
	if err != nil {
		return fmt.Errorf("start nats-server process %s: %w", s.config.Name, err)
	}
	s.current.Store(r)
	return nil
}

func (r *serverRun) heard(report serverReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last.state.Name == "" && r.last.Error == "" {
		close(r.ready)
	}
	r.last = report
}

func (r *serverRun) report() serverReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

func (r *serverRun) awaitReady(ctx context.Context) error {
	select {
	case <-r.ready:
	case <-r.Gone():
	case <-ctx.Done():
		return ctx.Err()
	}
	switch report := r.report(); {
	case report.Error != "":
		return errors.New(report.Error)
	case report.state.Name == "":
		return fmt.Errorf("%w: %s", errEnded, r.Outcome())
	}
	return nil
}

// Name is the server's name.
func (s *Server) Name() string { return s.config.Name }

// URL is where clients connect, also while the server is down.
func (s *Server) URL() string {
	return "nats://" + net.JoinHostPort(loopback, strconv.Itoa(s.config.Port))
}

// PID is the process that runs, or ran last.
func (s *Server) PID() int { return s.current.Load().PID() }

// Running reports whether the process runs. A paused one does.
func (s *Server) Running() bool { return s.current.Load().Running() }

// state is what the process said last, where it runs.
func (s *Server) state() (state, bool) { return s.current.Load().report().state, s.Running() }

// Kill ends the process with SIGKILL, as a crash would, and waits until it is gone.
func (s *Server) Kill() error { return s.stop(os.Kill) }

// Stop ends the process with SIGTERM and waits until it is gone. A paused one is continued first.
func (s *Server) Stop() error { return s.stop(syscall.SIGTERM) }

func (s *Server) stop(how os.Signal) error {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	return s.end(how)
}

func (s *Server) end(how os.Signal) error {
	if r := s.current.Load(); r != nil {
		return r.stop(how)
	}
	return nil
}

// Pause freezes the process, as SIGSTOP does: connections stay open, and nothing is answered.
func (s *Server) Pause() error { return s.signal((*Process).Pause) }

// Continue lets a paused process go on.
func (s *Server) Continue() error { return s.signal((*Process).Continue) }

func (s *Server) signal(send func(*Process) error) error {
	r := s.current.Load()
	if !r.Running() {
		return ErrNotRunning
	}
	return send(r.Process)
}

// Restart starts the server again, on the same ports, with the same store; it stops it first if it runs.
func (s *Server) Restart(ctx context.Context) error {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	if s.closed {
		return natsnode.ErrShutdown
	}
	if err := s.end(syscall.SIGTERM); err != nil {
		return err
	}
	return s.start(ctx)
}

// Reload makes the running server take over these users, as SIGHUP makes it take over a changed
// configuration. It returns when it has.
func (s *Server) Reload(ctx context.Context, users []*server.User) error {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	r := s.current.Load()
	if !r.Running() {
		return ErrNotRunning
	}
	s.config.Users = users
	before := r.report().Reloads
	if err := r.Tell(s.config.access); err != nil {
		return err
	}
	if err := Until(ctx, func() bool { return !r.Running() || r.report().Reloads > before }); err != nil {
		return fmt.Errorf("reload nats-server: %w", err)
	}
	if !r.Running() {
		return ErrNotRunning
	}
	if report := r.report(); report.Error != "" {
		return errors.New(report.Error)
	}
	return nil
}

// Shutdown ends the process, gives its ports back and removes a temporary store. It can be called again.
func (s *Server) Shutdown() {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	var how os.Signal = syscall.SIGTERM
	if s.config.Temporary {
		how = os.Kill // nothing to save
	}
	_ = s.end(how)
	s.closed = true
	for _, port := range s.reserved {
		port.Release()
	}
	if s.config.Temporary {
		_ = os.RemoveAll(s.config.StoreDir)
	}
}
