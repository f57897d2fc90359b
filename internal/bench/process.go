package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// process is a subproxy command.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it is gone
	last atomic.Pointer[string]
}

// startProcess starts a command with that configuration, and returns once it has logged the message ready; it does not wait for
// an empty one.
func startProcess(ctx context.Context, program, dir, name, command, ready string, conf []byte) (*process, error) {
	file := filepath.Join(dir, name+".yaml")
	if err := os.WriteFile(file, conf, 0o600); err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.CommandContext(ctx, program, command, "--config", file, "--log-format", "json"), done: make(chan struct{})}
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SUBPROXY_") }) // would override the configuration
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	runs := make(chan struct{})
	go p.follow(stderr, ready, runs)
	if ready == "" {
		return p, nil
	}
	select {
	case <-runs:
		return p, nil
	case <-p.done:
		return p, p.ended()
	}
}

// follow reads the process's log until it is gone.
func (p *process) follow(log io.Reader, ready string, runs chan<- struct{}) {
	found := ready == ""
	for lines := bufio.NewScanner(log); lines.Scan(); {
		line := lines.Text()
		if !found && strings.Contains(line, `"msg":"`+ready+`"`) {
			found = true
			close(runs)
		}
		p.last.Store(&line)
	}
	_, _ = io.Copy(io.Discard, log) // of a line that is too long
	_ = p.cmd.Wait()                // it is told to end, or killed
	close(p.done)
}

// ended is why a process that should run is gone.
func (p *process) ended() error {
	said := "nothing"
	if last := p.last.Load(); last != nil {
		said = *last
	}
	return fmt.Errorf("%s ended; it said last: %s", p.name, said)
}

// endWithin is how long a process that was told to end may take.
const endWithin = 30 * time.Second

// end signals the process and waits until it is gone.
func (p *process) end(how os.Signal) error {
	if err := p.cmd.Process.Signal(how); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	late := time.NewTimer(endWithin)
	defer late.Stop()
	select {
	case <-p.done:
		return nil
	case <-late.C:
	}
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.done
	return fmt.Errorf("%s did not end within %v of %v", p.name, endWithin, how)
}
