package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// instance is a child process that runs RunInstance.
type instance struct {
	cmd        *exec.Cmd
	stdin      io.Closer
	asks       *json.Encoder
	registered chan registered // of every cause but the timer
	usages     chan usageSoFar
	failed     chan error // holds one
	ended      chan struct{}
	began      time.Time
}

var errInstance = errors.New("the instance ended")

// startInstance starts the child, and does not wait for it.
func startInstance(c instanceConfig) (*instance, error) {
	executable, err := os.Executable()
	if err != nil {
		return nil, err
	}
	i := &instance{
		cmd: exec.Command(executable, InstanceCommand), registered: make(chan registered, 1<<16), usages: make(chan usageSoFar, 1),
		failed: make(chan error, 1), ended: make(chan struct{}), began: time.Now(),
	}
	i.cmd.Stderr = os.Stderr
	stdin, err := i.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := i.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := i.cmd.Start(); err != nil {
		return nil, err
	}
	i.stdin, i.asks = stdin, json.NewEncoder(stdin)
	go i.follow(stdout) // ends with the process, which stop waits for
	if err := i.asks.Encode(c); err != nil {
		i.stop()
		return nil, fmt.Errorf("%w: %w", errInstance, err)
	}
	return i, nil
}

func (i *instance) follow(stdout io.Reader) {
	defer close(i.ended)
	reports := json.NewDecoder(stdout)
	for {
		var r instanceReport
		if err := reports.Decode(&r); err != nil {
			break
		}
		switch {
		case r.Registered != nil:
			i.registered <- *r.Registered
		case r.Usage != nil:
			i.usages <- *r.Usage
		case r.Error != "":
			i.failed <- fmt.Errorf("%w: %s", errInstance, r.Error)
		}
	}
	_, _ = io.Copy(io.Discard, stdout)
	_ = i.cmd.Wait() // whether it failed, its reports say
}

func (i *instance) pid() int { return i.cmd.Process.Pid }

// verified returns when n registrations were verified for the cause.
func (i *instance) verified(ctx context.Context, cause func(registered) bool, n int) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	var last time.Time
	for n > 0 {
		select {
		case r := <-i.registered:
			if cause(r) {
				n -= r.N
				last = r.At
			}
		case err := <-i.failed:
			return last, err
		case <-i.ended:
			return last, errInstance
		case <-ctx.Done():
			return last, fmt.Errorf("%d registrations are still missing: %w", n, ctx.Err())
		}
	}
	return last, nil
}

func (i *instance) usage(ctx context.Context) (u usageSoFar, err error) {
	if err := i.asks.Encode("usage"); err != nil {
		return u, fmt.Errorf("%w: %w", errInstance, err)
	}
	select {
	case u = <-i.usages:
		return u, nil
	case <-i.ended:
		return u, errInstance
	case <-ctx.Done():
		return u, ctx.Err()
	}
}

// stop lets it release what it holds, and returns when it is gone.
func (i *instance) stop() {
	_ = i.stdin.Close()
	late := time.NewTimer(time.Minute)
	defer late.Stop()
	select {
	case <-i.ended:
	case <-late.C:
		_ = i.cmd.Process.Kill()
		<-i.ended
	}
}
