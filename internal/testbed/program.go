package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Subproxy is the subproxy program to run: the file that is named or, for none, the one beside this
// program, or in PATH.
func Subproxy(file string) (string, error) {
	if file != "" {
		return file, nil
	}
	const name = "subproxy"
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if file, err = exec.LookPath(filepath.Join(filepath.Dir(self), name)); err == nil {
		return file, nil
	}
	if file, err = exec.LookPath(name); errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("there is no %s program beside %s or in PATH: make build builds both; or name one with --subproxy FILE", name, self)
	}
	return file, err
}

// What a subproxy logs once it does what it is for.
const (
	EmitterRuns  = "emitter runs"
	InstanceRuns = "connected to NATS"
	ServesHTTP   = "serving HTTP"
)

// Program is a subproxy command with a configuration of its own, started again after each end. Its methods
// are called by one goroutine at a time.
type Program struct {
	File    string   // the subproxy program
	Dir     string   // of its configuration and its log
	Name    string   // of both, and in errors
	Command string   // run or emitter
	Args    []string // more of them
	Ready   string   // what it logs once it runs; empty: it is not waited for

	// Unexpected is called, from a goroutine of its own, where a run ends that was not told to; nil: nobody
	// is.
	Unexpected func(error)

	*Process // the run of now; nil before the first
}

// LogFile is where the logs of all its runs are.
func (p *Program) LogFile() string { return filepath.Join(p.Dir, p.Name+".log") }

// Configure writes the configuration that the next start, or the next SIGHUP, reads. Who reads it meanwhile
// reads the one before.
func (p *Program) Configure(text string) error {
	if err := os.WriteFile(p.configFile()+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(p.configFile()+".new", p.configFile())
}

func (p *Program) configFile() string { return filepath.Join(p.Dir, p.Name+".yaml") }

// Start starts the program, and returns when it says that it is ready.
func (p *Program) Start(ctx context.Context) error {
	file, err := os.OpenFile(p.LogFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	run, err := Run(Command{
		Name: p.Name, File: p.File, Args: append([]string{p.Command, "--config", p.configFile(), "--log-format", "json"}, p.Args...),
		Log: &Log{Copy: file},
		Ended: func(run *Process) {
			_ = file.Close()
			if !run.Told() && p.Unexpected != nil {
				p.Unexpected(fmt.Errorf("%s ended by itself: %s; its log is %s", p.Name, run.Outcome(), p.LogFile()))
			}
		},
	})
	if err != nil {
		_ = file.Close()
		return err
	}
	p.Process = run
	if p.Ready == "" {
		return nil
	}
	if _, err := run.Await(ctx, p.Ready); err != nil {
		return fmt.Errorf("start %s: %w; its log is %s", p.Name, err, p.LogFile())
	}
	return nil
}
