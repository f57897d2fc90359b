package natsnode

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nuid"
)

// Options of a server. The zero value is one on loopback, on a free port, with a temporary store.
type Options struct {
	Name     string // default: a unique one
	StoreDir string // default: a temporary directory, removed by Shutdown
	Host     string // default 127.0.0.1
	Port     int    // default: a free one, kept until Shutdown
	// Configure has the last word on the server's options, before every start: users, permissions, TLS,
	// limits.
	Configure func(*server.Options)
	// Logger takes the server's warnings and errors; nil: nobody does.
	Logger *slog.Logger
}

const (
	loopback = "127.0.0.1"
	// listenTimeout bounds what takes milliseconds, on a machine that is busy with something else.
	listenTimeout = 20 * time.Second
)

var (
	// ErrNotReady is returned when a server does not accept connections in time.
	ErrNotReady = errors.New("nats-server is not ready for connections")
	// ErrShutdown is returned by Restart after Shutdown.
	ErrShutdown = errors.New("the node was shut down")
)

// Node is a server in this process. Its methods can be called from any goroutine.
type Node struct {
	options   Options // with the defaults filled in
	temporary bool    // the store

	lifecycle sync.Mutex // one start or stop at a time; guards the two below
	reserved  *Port
	closed    bool

	current atomic.Pointer[server.Server]
}

// Start starts a server with JetStream. It accepts connections when Start returns.
func Start(o Options) (*Node, error) {
	n := &Node{options: o}
	if err := n.fill(); err != nil {
		n.Shutdown()
		return nil, err
	}
	n.lifecycle.Lock()
	err := n.start()
	n.lifecycle.Unlock()
	if err != nil {
		n.Shutdown()
		return nil, err
	}
	return n, nil
}

// fill sets the defaults, once, so that every start has the same.
func (n *Node) fill() (err error) {
	if n.options.Name == "" {
		n.options.Name = nuid.Next()
	}
	if n.options.Host == "" {
		n.options.Host = loopback
	}
	if n.options.StoreDir == "" {
		if n.options.StoreDir, err = os.MkdirTemp("", "subproxy-nats-"); err != nil {
			return err
		}
		n.temporary = true
	}
	if n.options.Port == 0 {
		if n.reserved, err = Reserve(n.options.Host); err != nil {
			return err
		}
		n.options.Port = n.reserved.Number
	}
	return nil
}

func (n *Node) start() error {
	s, err := server.NewServer(n.serverOptions())
	if err != nil {
		return fmt.Errorf("start nats-server: %w", err)
	}
	log := &serverLog{logger: n.options.Logger, fatal: make(chan string, 1)}
	s.SetLoggerV2(log, false, false, false)
	s.Start()
	if err := awaitListening(s, log.fatal); err != nil {
		stop(s)
		return err
	}
	n.current.Store(s)
	return nil
}

// serverOptions are new at every start: a server keeps and changes what it is given.
func (n *Node) serverOptions() *server.Options {
	so := &server.Options{
		ServerName: n.options.Name, Host: n.options.Host, Port: n.options.Port,
		JetStream: true, StoreDir: n.options.StoreDir, NoSigs: true, NoLog: true,
	}
	if n.options.Configure != nil {
		n.options.Configure(so)
	}
	return so
}

// awaitListening waits until the server accepts clients and routes, or has said why it won't. A server that
// runs inside another program reports a fatal error to its logger and nowhere else.
func awaitListening(s *server.Server, fatal <-chan string) error {
	deadline := time.Now().Add(listenTimeout)
	for !s.ReadyForConnections(time.Millisecond) {
		select {
		case text := <-fatal:
			return fmt.Errorf("start nats-server: %s", text)
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(deadline) {
			return ErrNotReady
		}
	}
	return nil
}

// Name is the server's name.
func (n *Node) Name() string { return n.options.Name }

// URL is where clients connect, also while the server is down.
func (n *Node) URL() string {
	return "nats://" + net.JoinHostPort(n.options.Host, strconv.Itoa(n.options.Port))
}

// Server is the server that runs, or ran last.
func (n *Node) Server() *server.Server { return n.current.Load() }

// Stop stops the server, as SIGTERM would, and keeps its ports and store for Restart.
func (n *Node) Stop() {
	n.lifecycle.Lock()
	defer n.lifecycle.Unlock()
	stop(n.Server())
}

// Restart starts the server again, on the same ports, with the same store; it stops it first if it runs.
func (n *Node) Restart() error {
	n.lifecycle.Lock()
	defer n.lifecycle.Unlock()
	if n.closed {
		return ErrShutdown
	}
	stop(n.Server())
	return n.start()
}

// Reload makes the running server take over what Configure sets now, as far as a server can without a
// restart: permissions, for one.
func (n *Node) Reload() error {
	if err := n.Server().ReloadOptions(n.serverOptions()); err != nil {
		return fmt.Errorf("reload nats-server: %w", err)
	}
	return nil
}

// Shutdown stops the server, gives its port back and removes a temporary store. It can be called again.
func (n *Node) Shutdown() {
	n.lifecycle.Lock()
	defer n.lifecycle.Unlock()
	stop(n.Server())
	n.closed = true
	if n.reserved != nil {
		n.reserved.Release()
	}
	if n.temporary {
		_ = os.RemoveAll(n.options.StoreDir)
	}
}

func stop(s *server.Server) {
	if s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// DisableJetStream takes JetStream away from the account where clients without credentials are, and leaves
// core NATS: requests are answered with "not enabled for account", streams take nothing more, and what is
// stored stays. It is for a single server; the nodes of a cluster would not get their streams back.
//
// The account loses it, and not the server, because a server (2.15) that disables and enables JetStream
// keeps its old API subscription beside the new one, answers every request twice, and has a data race with
// any request in between.
func (n *Node) DisableJetStream() error { return n.Server().GlobalAccount().DisableJetStream() }

// EnableJetStream brings JetStream back, with what is stored.
func (n *Node) EnableJetStream() error { return n.Server().GlobalAccount().EnableJetStream(nil, nil) }
