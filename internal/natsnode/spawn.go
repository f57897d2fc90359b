package natsnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// child is one run of a Process.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser // its end tells the child that the parent is gone
	ready chan struct{}  // closed by follow, at the first report
	done  chan struct{}  // closed by follow, when the process is gone

	mu   sync.Mutex
	last childReport
}

// childEnv is set for a child. A program that does not know ChildCommand would start children of its own, for ever.
const childEnv = "SUBPROXY_NATS_SERVER_NODE"

var errNested = errors.New("this is a nats-server process itself; does its main, or TestMain, call RunChild?")

var errEnded = errors.New("it ended before it accepted connections")

func startChild(ctx context.Context, config childConfig, stderr io.Writer) (*child, error) {
	if os.Getenv(childEnv) != "" {
		return nil, errNested
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(executable, ChildCommand), ready: make(chan struct{}), done: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), childEnv+"=1")
	c.cmd.Stderr = stderr
	c.cmd.SysProcAttr = childAttributes()
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	c.stdin = stdin
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go c.follow(stdout) // ends with the process, which end waits for
	if err := json.NewEncoder(stdin).Encode(config); err != nil {
		_ = c.end(syscall.SIGKILL)
		return nil, fmt.Errorf("%w: %s", errEnded, c.cmd.ProcessState)
	}
	return c, c.awaitReady(ctx)
}

// awaitReady waits for the first report. A child that does not come up is ended.
func (c *child) awaitReady(ctx context.Context) error {
	var err error
	select {
	case <-c.ready:
		if report := c.report(); report.Error != "" {
			err = errors.New(report.Error)
		}
	case <-c.done:
		err = fmt.Errorf("%w: %s", errEnded, c.cmd.ProcessState)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		_ = c.end(syscall.SIGKILL)
	}
	return err
}

// follow reads the child's reports until it is gone.
func (c *child) follow(stdout io.Reader) {
	reports := json.NewDecoder(stdout)
	for first := true; ; first = false {
		var report childReport
		if err := reports.Decode(&report); err != nil {
			break
		}
		c.mu.Lock()
		c.last = report
		c.mu.Unlock()
		if first {
			close(c.ready)
		}
	}
	_, _ = io.Copy(io.Discard, stdout)
	_ = c.cmd.Wait() // how it ended is in ProcessState
	_ = c.stdin.Close()
	close(c.done)
}

// end signals the process and waits until it is gone; it kills one that does not go.
func (c *child) end(how os.Signal) error {
	if err := c.cmd.Process.Signal(how); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = resume(c) // a paused process takes SIGTERM only when it goes on
	late := time.NewTimer(stopTimeout)
	defer late.Stop()
	select {
	case <-c.done:
		return nil
	case <-late.C:
	}
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-c.done
	return nil
}

// reload makes the server take over who may do what.
func (c *child) reload(ctx context.Context, a access) error {
	before := c.report().Reloads
	if err := json.NewEncoder(c.stdin).Encode(a); err != nil {
		return err
	}
	if err := wait(ctx, "nats-server to reload", func() bool { return !c.running() || c.report().Reloads > before }); err != nil {
		return err
	}
	if !c.running() {
		return ErrNotRunning
	}
	if report := c.report(); report.Error != "" {
		return errors.New(report.Error)
	}
	return nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) running() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

func (c *child) report() childReport {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}
