package testbed

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Command is what is run as a process.
type Command struct {
	Name   string // in errors
	File   string
	Args   []string
	Env    []string       // default: this program's, without SUBPROXY_…, which would override configurations
	Stdin  io.Reader      // default: nothing
	Stdout io.Writer      // default: the log
	Log    *Log           // of standard error; default: one in memory
	Ended  func(*Process) // called when it has ended, before End and Gone tell
}

// Process is a child of this program. It is in a process group of its own, so that Ctrl-C reaches only the
// parent, which ends its children in its own order; on Linux the kernel kills it when its parent dies. Its
// methods can be called from any goroutine.
type Process struct {
	Name string
	Log  *Log

	cmd  *exec.Cmd
	told atomic.Bool   // to end
	gone chan struct{} // closed when it has ended
}

// Run starts a process.
func Run(c Command) (*Process, error) {
	p := &Process{Name: c.Name, Log: c.Log, cmd: exec.Command(c.File, c.Args...), gone: make(chan struct{})}
	if p.Log == nil {
		p.Log = &Log{}
	}
	if p.cmd.Env = c.Env; c.Env == nil {
		p.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SUBPROXY_") })
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = c.Stdin, c.Stdout, p.Log
	if c.Stdout == nil {
		p.cmd.Stdout = p.Log
	}
	p.cmd.SysProcAttr = attributes()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	go func() { // ends with the process
		_ = p.cmd.Wait() // how it ended is in ProcessState
		if c.Ended != nil {
			c.Ended(p)
		}
		close(p.gone)
	}()
	return p, nil
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Gone is closed when the process has ended.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Running reports whether the process runs. A paused one does.
func (p *Process) Running() bool {
	select {
	case <-p.gone:
		return false
	default:
		return true
	}
}

// Told reports whether the process was told to end: by Signal or End.
func (p *Process) Told() bool { return p.told.Load() }

// Outcome is how a process ended that has: its exit status or the signal.
func (p *Process) Outcome() *os.ProcessState { return p.cmd.ProcessState }

// Ended is the error of a process that should run and does not.
func (p *Process) Ended() error {
	last := strings.TrimSpace(p.Log.Tail(1000))
	return fmt.Errorf("%s ended: %s; it said last: %s", p.Name, p.Outcome(), last[strings.LastIndexByte(last, '\n')+1:])
}

// Signal signals the process, and waits for nothing. One that is gone needs no signal.
func (p *Process) Signal(s os.Signal) error {
	if s == syscall.SIGTERM || s == os.Interrupt || s == os.Kill {
		p.told.Store(true)
	}
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s to %s: %w", s, p.Name, err)
	}
	return nil
}

// Pause freezes the process, as SIGSTOP does: connections stay open, and nothing is answered.
func (p *Process) Pause() error { return pause(p) }

// Continue lets a paused process go on.
func (p *Process) Continue() error { return resume(p) }

// End signals the process, lets it go on where it is paused, and returns when it is gone. One that is not
// gone within that time is killed, and that is the error.
func (p *Process) End(how os.Signal, within time.Duration) error {
	err := p.Signal(how)
	if err != nil {
		how = os.Kill // this system has no such signal
		_ = p.Signal(how)
	}
	_ = resume(p) // a paused process takes SIGTERM only when it goes on
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case <-p.gone:
		return nil
	case <-late.C:
	}
	_ = p.Signal(os.Kill)
	<-p.gone
	return fmt.Errorf("%s did not end within %v of %v", p.Name, within, how)
}

// StopTimeout is what a process that is asked to end is given before it is killed: an instance releases
// what it holds.
const StopTimeout = 30 * time.Second

// Stop ends the process in good order, and Kill as a crash does. Both return when it is gone, and do
// nothing where it is gone.
func (p *Process) Stop() error { return p.stop(syscall.SIGTERM) }

// Kill ends the process with SIGKILL.
func (p *Process) Kill() error { return p.stop(os.Kill) }

func (p *Process) stop(how os.Signal) error {
	if p == nil || !p.Running() {
		return nil
	}
	return p.End(how, StopTimeout)
}
