package natsnode

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
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nuid"
)

// stopTimeout is what a child that was asked to stop is given before it is killed.
const stopTimeout = 10 * time.Second

// ErrNotRunning is returned for a signal to a process that does not run.
var ErrNotRunning = errors.New("the nats-server process does not run")

// ProcessOptions of a server that runs as a child process on loopback. The zero value is a single one on a free port with
// a temporary store.
type ProcessOptions struct {
	Name     string // default: a unique one
	StoreDir string // default: a temporary directory, removed by Shutdown
	Port     int    // default: a free one, kept until Shutdown

	ClusterName string   // of the cluster it joins; default: none
	Routes      []string // nats://host:port of all the cluster's servers, its own too
	ClusterPort int      // for routes; default: a free one, kept until Shutdown

	Users      []*server.User // default: everybody may do everything
	NoAuthUser string         // whom the server takes a client for that does not say

	Stderr io.Writer // takes what the child says on standard error; nil: nobody does
}

// Process is a server in a child process. Its methods can be called from any goroutine.
type Process struct {
	config childConfig
	stderr io.Writer

	lifecycle sync.Mutex // one start or stop at a time; guards the two below
	reserved  []*port
	closed    bool

	current atomic.Pointer[child]
}

// StartProcess starts this program's own executable as a server: see ChildCommand. The server accepts connections when
// StartProcess returns; ctx bounds only that. Whether its cluster is ready, WaitReady tells.
func StartProcess(ctx context.Context, o ProcessOptions) (*Process, error) {
	p := &Process{stderr: o.Stderr, config: childConfig{
		Name: o.Name, StoreDir: o.StoreDir, ClusterName: o.ClusterName, Routes: o.Routes, Port: o.Port, ClusterPort: o.ClusterPort,
		access: access{o.Users, o.NoAuthUser},
	}}
	err := p.fill()
	if err == nil {
		p.lifecycle.Lock()
		err = p.start(ctx)
		p.lifecycle.Unlock()
	}
	if err != nil {
		p.Shutdown()
		return nil, err
	}
	return p, nil
}

// fill sets the defaults, once, so that every start has the same.
func (p *Process) fill() (err error) {
	c := &p.config
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
		if c.Port, err = p.reserve(); err != nil {
			return err
		}
	}
	if c.ClusterName != "" && c.ClusterPort == 0 {
		c.ClusterPort, err = p.reserve()
	}
	return err
}

func (p *Process) reserve() (int, error) {
	r, err := reserve(loopback)
	if err != nil {
		return 0, err
	}
	p.reserved = append(p.reserved, r)
	return r.number, nil
}

func (p *Process) start(ctx context.Context) error {
	c, err := startChild(ctx, p.config, p.stderr)
	if err != nil {
		return fmt.Errorf("start nats-server process %s: %w", p.config.Name, err)
	}
	p.current.Store(c)
	return nil
}

// Name is the server's name.
func (p *Process) Name() string { return p.config.Name }

// URL is where clients connect, also while the server is down.
func (p *Process) URL() string {
	return "nats://" + net.JoinHostPort(loopback, strconv.Itoa(p.config.Port))
}

// ClusterPort is where routes connect; 0 for a single server.
func (p *Process) ClusterPort() int { return p.config.ClusterPort }

// PID is the process that runs, or ran last.
func (p *Process) PID() int { return p.current.Load().pid() }

// Running reports whether the process runs. A paused one does.
func (p *Process) Running() bool { return p.current.Load().running() }

// Kill ends the process with SIGKILL, as a crash would, and waits until it is gone.
func (p *Process) Kill() error {
	p.lifecycle.Lock()
	defer p.lifecycle.Unlock()
	return p.end(syscall.SIGKILL)
}

// Stop ends the process with SIGTERM and waits until it is gone. A paused one is continued first.
func (p *Process) Stop() error {
	p.lifecycle.Lock()
	defer p.lifecycle.Unlock()
	return p.end(syscall.SIGTERM)
}

func (p *Process) end(how os.Signal) error {
	c := p.current.Load()
	if c == nil || !c.running() {
		return nil
	}
	return c.end(how)
}

// Pause freezes the process with SIGSTOP: its connections stay open, and nothing answers.
func (p *Process) Pause() error { return pause(p.current.Load()) }

// Continue lets a paused process go on.
func (p *Process) Continue() error { return resume(p.current.Load()) }

// Restart starts the server again, on the same ports, with the same store; it stops it first if it runs.
func (p *Process) Restart(ctx context.Context) error {
	p.lifecycle.Lock()
	defer p.lifecycle.Unlock()
	if p.closed {
		return ErrShutdown
	}
	if err := p.end(syscall.SIGTERM); err != nil {
		return err
	}
	return p.start(ctx)
}

// Reload makes the running server take over these users, as SIGHUP makes it take over a changed configuration. It returns when it has.
func (p *Process) Reload(ctx context.Context, users []*server.User) error {
	p.lifecycle.Lock()
	defer p.lifecycle.Unlock()
	c := p.current.Load()
	if !c.running() {
		return ErrNotRunning
	}
	p.config.Users = users
	return c.reload(ctx, p.config.access)
}

// Shutdown ends the process, gives its ports back and removes a temporary store. It can be called again.
func (p *Process) Shutdown() {
	p.lifecycle.Lock()
	defer p.lifecycle.Unlock()
	how := syscall.SIGTERM
	if p.config.Temporary {
		how = syscall.SIGKILL // nothing to save
	}
	_ = p.end(how)
	p.closed = true
	release(p.reserved)
	if p.config.Temporary {
		_ = os.RemoveAll(p.config.StoreDir)
	}
}
