// Package command is what this module's programs have in common on their command lines: exit codes,
// mistakes in usage, the version. What a program does is its own.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit codes.
const (
	Done     = 0
	Failed   = 1
	WrongUse = 2
)

// UsageError is a mistake in the command line, as opposed to something that did not work.
type UsageError struct{ err error }

func (e *UsageError) Error() string { return e.err.Error() }
func (e *UsageError) Unwrap() error { return e.err }

// Usagef is a UsageError with that text.
func Usagef(format string, args ...any) error {
	return &UsageError{fmt.Errorf(format, args...)}
}

// Root makes a program's root command: it refuses unknown commands and flags as mistakes in usage, and
// shows its help without a command. Errors are for Run to print.
func Root(root *cobra.Command) *cobra.Command {
	root.Version = Version()
	root.SilenceUsage, root.SilenceErrors = true, true
	root.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return Usagef("unknown command %q; see %s --help", args[0], cmd.Name())
		}
		return nil
	}
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	root.SetVersionTemplate(root.Name() + " {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return Usagef("%w; see %s --help", err, cmd.CommandPath())
	})
	return root
}

// Run runs the program until it is done, or SIGINT or SIGTERM ends it, and is its exit code. An error goes
// to standard error.
func Run(root *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if !term.IsTerminal(int(os.Stdout.Fd())) {
		text.DisableColors()
	}
	err := root.ExecuteContext(ctx)
	if err == nil {
		return Done
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", root.Name(), err)
	if use := (*UsageError)(nil); errors.As(err, &use) {
		return WrongUse
	}
	return Failed
}

// Args limits the number of arguments, naming them in the error.
func Args(least, most int, names string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return Usagef("%s takes %s, not %d arguments; see %s --help", cmd.CommandPath(), names, len(args), cmd.CommandPath())
		}
		return nil
	}
}

// WriteJSON writes a value as indented JSON.
func WriteJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// version is set by the linker; a `go install …@v1.2.3` takes it from the module.
var version = ""

// Version is a semantic version, as NATS micro wants it.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && len(info.Main.Version) > 1 && info.Main.Version[0] == 'v' {
		return info.Main.Version[1:]
	}
	return "0.0.0-dev"
}
