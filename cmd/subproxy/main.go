// Command subproxy keeps event-store subscriptions attached to a leader that moves.
package main

import (
	"context"
	"errors"
	"fmt"
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
	exitDone     = 0
	exitFailed   = 1
	exitWrongUse = 2
)

// version is set by the linker; a `go install …@v1.2.3` takes it from the module.
var version = ""

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if !term.IsTerminal(int(os.Stdout.Fd())) {
		text.DisableColors()
	}
	err := newRoot().ExecuteContext(ctx)
	var use *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &use):
		fmt.Fprintf(os.Stderr, "subproxy: %v\n", err)
		return exitWrongUse
	default:
		fmt.Fprintf(os.Stderr, "subproxy: %v\n", err)
		return exitFailed
	}
}

// usageError is a mistake in the command line, as opposed to something that did not work.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "subproxy",
		Short: "Keeps event-store subscriptions attached to a leader that moves",
		Long: `subproxy registers event-store subscriptions in a JetStream KV bucket, registers them anew the moment the
store's leader changes or its emitters restart, reads each registration back, and reports their health.

Start with the built-in example, which needs nothing installed:

  subproxy run --embedded`,
		Version:       versionString(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q; see subproxy --help", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("subproxy {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(newRun(), newCheck(), newList(), newStatus(), newRestart(), newReregister(), newResetTerm(), newMembers(), newDrain(), newPublish(), newEmitter(), newParked(), newCheckpoints(), newBench(), newDemo(), newServerNode(), newBenchInstance(), newVersion())
	return root
}

// args limits the number of arguments, naming them in the error.
func args(least, most int, names string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usagef("%s takes %s, not %d arguments; see %s --help", cmd.CommandPath(), names, len(args), cmd.CommandPath())
		}
		return nil
	}
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: args(0, 0, "no arguments"),
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "subproxy", versionString()) },
	}
}

// versionString is a semantic version, as NATS micro wants it.
func versionString() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && len(info.Main.Version) > 1 && info.Main.Version[0] == 'v' {
		return info.Main.Version[1:]
	}
	return "0.0.0-dev"
}
