package testbed

import (
	"encoding/json"
	"errors"
	"io"
	"os"
)

// Child is a process that is told things in lines of JSON, and reports in such lines of type R.
type Child[R any] struct {
	*Process
	in    io.WriteCloser
	lines *json.Encoder
}

// childEnv is set for a child. A program that does not know the command would start children of its own,
// for ever.
const childEnv = "SUBPROXY_TESTBED_CHILD"

var errNested = errors.New("this is a child itself; does its main, or TestMain, know the command?")

// StartChild runs a program with that command (for no file: the one that runs now) and tells it the first
// thing. Each of its reports is heard, in order, before it counts as gone. What it says on standard error
// goes to stderr; nil: to its log alone.
func StartChild[R any](file, command string, first any, stderr io.Writer, heard func(R)) (*Child[R], error) {
	if os.Getenv(childEnv) != "" {
		return nil, errNested
	}
	if file == "" {
		var err error
		if file, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	orders, in, err := os.Pipe() // its end tells the child that the parent is gone, however it went
	if err != nil {
		return nil, err
	}
	defer orders.Close()
	reports, out := io.Pipe()
	read := make(chan struct{})
	go func() { // ends with the process, which closes out
		defer close(read)
		for lines := json.NewDecoder(reports); ; {
			var report R
			if lines.Decode(&report) != nil {
				break
			}
			heard(report)
		}
		_, _ = io.Copy(io.Discard, reports)
	}()
	c := &Child[R]{in: in, lines: json.NewEncoder(in)}
	c.Process, err = Run(Command{
		Name: command, File: file, Args: []string{command}, Env: append(os.Environ(), childEnv+"=1"),
		Stdin: orders, Stdout: out, Log: &Log{Copy: stderr},
		Ended: func(*Process) {
			_ = out.Close()
			<-read
			_ = in.Close()
		},
	})
	if err != nil {
		_ = out.Close()
		<-read
		_ = in.Close()
		return nil, err
	}
	if err := c.Tell(first); err != nil {
		_ = c.Kill()
		return nil, c.Ended()
	}
	return c, nil
}

// Tell tells the child one thing.
func (c *Child[R]) Tell(what any) error { return c.lines.Encode(what) }

// Leave tells the child that nothing follows: it ends as if its parent were gone.
func (c *Child[R]) Leave() { _ = c.in.Close() }
