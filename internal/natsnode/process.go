package natsnode

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// ChildCommand is the hidden command of this program that runs a server as a child process (RunChild).
const ChildCommand = "nats-server-node"

// childOptions go to the child on its standard input, and its answer comes back on standard output.
type childOptions struct {
	Name     string `json:"name"`
	StoreDir string `json:"store_dir"`
	Port     int    `json:"port"`
}

type childReady struct {
	Port  int    `json:"port"`
	Error string `json:"error,omitempty"`
}

// Process is one server in a process of its own, which shares nothing with this one: neither memory that is measured,
// nor a fate. It ends with this process.
type Process struct {
	cmd   *exec.Cmd
	stdin io.Closer // the child ends when it is closed
	dir   string
	port  int
}

// StartProcess starts this program anew as a nats-server; it is ready for connections when StartProcess returns.
func StartProcess(name string) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "subproxy-nats-")
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: exec.Command(self, ChildCommand), dir: dir}
	p.cmd.Stderr = os.Stderr
	if err := p.start(childOptions{Name: name, StoreDir: dir}); err != nil {
		p.Stop()
		return nil, fmt.Errorf("start a nats-server process: %w", err)
	}
	return p, nil
}

func (p *Process) start(o childOptions) error {
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	p.stdin = stdin
	if err := p.cmd.Start(); err != nil {
		return err
	}
	if err := json.NewEncoder(stdin).Encode(o); err != nil {
		return err
	}
	var ready childReady
	if err := json.NewDecoder(stdout).Decode(&ready); err != nil {
		return err
	}
	if ready.Error != "" {
		return fmt.Errorf("%s", ready.Error)
	}
	p.port = ready.Port
	return nil
}

// URL is where clients connect.
func (p *Process) URL() string { return fmt.Sprintf("nats://%s:%d", loopback, p.port) }

// Stop ends the process and removes its store. It can be called again.
func (p *Process) Stop() {
	if p.stdin != nil {
		p.stdin.Close()
	}
	if p.cmd.Process != nil {
		_ = p.cmd.Wait() // how it ended does not matter: it was told to
	}
	_ = os.RemoveAll(p.dir)
}

// RunChild is the child's side: a server that runs until its standard input is closed, which a dying parent does, or
// until it is told to end.
func RunChild(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	decoder := json.NewDecoder(in)
	var o childOptions
	if err := decoder.Decode(&o); err != nil {
		return fmt.Errorf("read the options: %w", err)
	}
	node, err := Start(Options{Name: o.Name, StoreDir: o.StoreDir, Port: o.Port})
	if err != nil {
		return json.NewEncoder(out).Encode(childReady{Error: err.Error()})
	}
	defer node.Shutdown()
	if err := json.NewEncoder(out).Encode(childReady{Port: node.options.Port}); err != nil {
		return err
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_, _ = io.Copy(io.Discard, decoder.Buffered())
		_, _ = io.Copy(io.Discard, in)
	}()
	select {
	case <-closed:
	case <-ctx.Done():
	}
	return nil
}
