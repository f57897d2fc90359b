// Package natsnode runs NATS servers for what brings its own: the embedded mode, the bench and the tests. They are real
// nats-servers, in the process (Node, Cluster) or as child processes that can be killed (Process), on loopback.
package natsnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Options of one server. The zero value is a server on a free port with a temporary store.
type Options struct {
	Name     string
	StoreDir string // empty: a temporary directory, removed by Shutdown
	Port     int    // 0: any free port
	Logger   *slog.Logger
	// Configure has the last word on the server's options.
	Configure func(*server.Options)
}

const (
	loopback     = "127.0.0.1"
	readyTimeout = 10 * time.Second
)

// ErrNotReady is returned where a server does not accept connections in time.
var ErrNotReady = errors.New("nats-server is not ready for connections")

// Node is one server in this process. Its methods are for one goroutine at a time.
type Node struct {
	options   *server.Options
	temporary bool
	logger    *slog.Logger

	mu     sync.Mutex
	server *server.Server
}

// Start starts a server with JetStream; it is ready for connections when Start returns.
func Start(o Options) (*Node, error) {
	n := &Node{logger: o.Logger, temporary: o.StoreDir == ""}
	if n.temporary {
		dir, err := os.MkdirTemp("", "subproxy-nats-")
		if err != nil {
			return nil, err
		}
		o.StoreDir = dir
	}
	n.options = &server.Options{
		ServerName: o.Name, Host: loopback, Port: o.Port, JetStream: true, StoreDir: o.StoreDir,
		NoSigs: true, NoLog: true, NoSystemAccount: false,
	}
	if o.Port == 0 {
		n.options.Port = server.RANDOM_PORT
	}
	if o.Configure != nil {
		o.Configure(n.options)
	}
	if err := n.start(); err != nil {
		n.Shutdown()
		return nil, err
	}
	return n, nil
}

func (n *Node) start() error {
	opts := n.options.Clone()
	s, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("start nats-server: %w", err)
	}
	failed := &fatal{logger: n.logger, errs: make(chan string, 1)}
	s.SetLoggerV2(failed, false, false, false)
	n.mu.Lock()
	n.server = s
	n.mu.Unlock()
	s.Start()
	if err := awaitReady(s, failed); err != nil {
		return err
	}
	n.keepPorts(s)
	return nil
}

// awaitReady waits until the server accepts connections, or has said why it won't.
func awaitReady(s *server.Server, failed *fatal) error {
	deadline := time.Now().Add(readyTimeout)
	for !s.ReadyForConnections(10 * time.Millisecond) {
		select {
		case text := <-failed.errs:
			return fmt.Errorf("start nats-server: %s", text)
		default:
		}
		if time.Now().After(deadline) {
			return ErrNotReady
		}
	}
	return nil
}

// keepPorts makes a restart take the ports that were picked, so that clients and routes find the server again.
func (n *Node) keepPorts(s *server.Server) {
	if addr := s.Addr(); addr != nil {
		n.options.Port = portOf(addr)
	}
	if addr := s.ClusterAddr(); addr != nil {
		n.options.Cluster.Port = addr.Port
	}
}

// URL is where clients connect.
func (n *Node) URL() string { return fmt.Sprintf("nats://%s:%d", loopback, n.options.Port) }

// Name is the server's name.
func (n *Node) Name() string { return n.options.ServerName }

// Server is the server that runs now, or ran last.
func (n *Node) Server() *server.Server {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.server
}

// Stop stops the server and keeps its ports and its store for Restart.
func (n *Node) Stop() {
	if s := n.Server(); s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// Restart starts the server again, on the same ports with the same store.
func (n *Node) Restart() error {
	n.Stop()
	return n.start()
}

// Shutdown stops the server and removes a temporary store. It can be called again.
func (n *Node) Shutdown() {
	n.Stop()
	if n.temporary {
		// A file that the server's last flush still holds is not worth failing for in a temporary directory.
		_ = os.RemoveAll(n.options.StoreDir)
	}
}

// DisableJetStream takes JetStream away and leaves core NATS.
func (n *Node) DisableJetStream() error { return n.Server().DisableJetStream() }

// EnableJetStream brings it back, with what it stored.
func (n *Node) EnableJetStream() error {
	return n.Server().EnableJetStream(&server.JetStreamConfig{StoreDir: n.options.StoreDir, MaxMemory: -1, MaxStore: -1})
}

// fatal is the server's logger: it passes warnings on, and keeps what kept the server from starting.
type fatal struct {
	logger *slog.Logger
	errs   chan string
}

func (f *fatal) log(level slog.Level, format string, args ...any) {
	if f.logger != nil {
		f.logger.Log(context.Background(), level, "nats-server: "+fmt.Sprintf(format, args...))
	}
}

// Fatalf implements server.Logger.
func (f *fatal) Fatalf(format string, args ...any) {
	select {
	case f.errs <- fmt.Sprintf(format, args...):
	default:
	}
}

// Noticef, Debugf and Tracef are not passed on.
func (f *fatal) Noticef(string, ...any) {}

// Debugf implements server.Logger.
func (f *fatal) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (f *fatal) Tracef(string, ...any) {}

// Warnf implements server.Logger.
func (f *fatal) Warnf(format string, args ...any) { f.log(slog.LevelWarn, format, args...) }

// Errorf implements server.Logger.
func (f *fatal) Errorf(format string, args ...any) { f.log(slog.LevelError, format, args...) }
