package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// stopTimeout is what a process that was asked to stop is given before it is killed.
const stopTimeout = 10 * time.Second

// What a process logs once it does what it is for.
const (
	emitterRuns  = "emitter runs"
	instanceRuns = "connected to NATS"
)

// program is an emitter or an instance: a subproxy process, started again after each end. Its methods are called by one
// goroutine at a time.
type program struct {
	executable string
	name       string
	command    string // emitter or run
	ready      string // what it logs once it runs
	dir        string // of its configuration and its log
	failed     func(error)
	*run       // of now; nil before the first
}

// run is one run of a program.
type run struct {
	cmd   *exec.Cmd
	log   *logWriter
	meant atomic.Bool   // it was told to end
	done  chan struct{} // closed when the process is gone
}

func (p *program) logFile() string { return filepath.Join(p.dir, p.name+".log") }

// configure writes the configuration that the next start reads.
func (p *program) configure(text string) error {
	return os.WriteFile(filepath.Join(p.dir, p.name+".yaml"), []byte(text), 0o600)
}

// start starts the process and returns when it runs.
func (p *program) start(ctx context.Context) error {
	file, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	r := &run{log: &logWriter{file: file, want: p.ready, found: make(chan struct{})}, done: make(chan struct{})}
	r.cmd = exec.Command(p.executable, p.command, "--config", filepath.Join(p.dir, p.name+".yaml"), "--log-format", "json")
	r.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SUBPROXY_") }) // would override the configuration
	r.cmd.Stderr = r.log
	r.cmd.SysProcAttr = attributes()
	if err := r.cmd.Start(); err != nil {
		_ = file.Close()
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.run = r
	go p.await(r) // ends with the process, which end waits for
	select {
	case <-r.log.found:
		return nil
	case <-r.done:
		return fmt.Errorf("start %s: it ended: %s; its log is %s", p.name, r.cmd.ProcessState, p.logFile())
	case <-ctx.Done():
		return fmt.Errorf("start %s: %w", p.name, context.Cause(ctx))
	}
}

func (p *program) await(r *run) {
	_ = r.cmd.Wait() // how it ended is in ProcessState
	_ = r.log.file.Close()
	if !r.meant.Load() {
		p.failed(fmt.Errorf("%s ended by itself: %s; its log is %s", p.name, r.cmd.ProcessState, p.logFile()))
	}
	close(r.done)
}

// signal tells the process to end, and does not wait for it.
func (p *program) signal(s os.Signal) error {
	p.meant.Store(true)
	err := p.cmd.Process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// end waits until the process, which was told to end, is gone; it kills one that does not go.
func (p *program) end() {
	late := time.NewTimer(stopTimeout)
	defer late.Stop()
	select {
	case <-p.done:
		return
	case <-late.C:
	}
	_ = p.signal(syscall.SIGKILL)
	<-p.done
}

// stop ends the process, if it runs.
func (p *program) stop() {
	if p.run == nil {
		return
	}
	if err := p.signal(syscall.SIGTERM); err != nil {
		_ = p.signal(syscall.SIGKILL) // this system has no SIGTERM
	}
	p.end()
}

// logWriter writes a process's log to a file, and finds a message in it.
type logWriter struct {
	file  *os.File
	want  string
	found chan struct{} // closed by Write

	once sync.Once
	rest []byte // the line that is not complete
}

func (w *logWriter) Write(data []byte) (int, error) {
	w.rest = append(w.rest, data...)
	for {
		line, rest, complete := bytes.Cut(w.rest, []byte("\n"))
		if !complete {
			break
		}
		var entry struct {
			Message string `json:"msg"`
		}
		if json.Unmarshal(line, &entry) == nil && entry.Message == w.want {
			w.once.Do(func() { close(w.found) })
		}
		w.rest = rest
	}
	return w.file.Write(data)
}
