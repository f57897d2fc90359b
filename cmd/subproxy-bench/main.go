// Command subproxy-bench measures subproxy on this machine, and breaks it before your eyes.
package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/bench"
	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/internal/testbed"
)

func main() {
	os.Exit(command.Run(newRoot()))
}

func newRoot() *cobra.Command {
	root := command.Root(&cobra.Command{
		Use:   "subproxy-bench",
		Short: "Measures subproxy on this machine, and breaks it before your eyes",
		Long: `Measure subproxy beside the raw NATS operations that it is made of, on the same machine in the same run. Servers are
started for it and ended with it. Targets are ratios; with --check a missed one is named and the exit status is 1.

demo measures nothing: it breaks one thing after another, and shows that nothing is lost.`,
	})
	root.AddCommand(newReregister(), newIdle(), newDelivery(), newLinks(), newFailover(), newScale(), newInstances(), newDemo(),
		newChild(testbed.ServerCommand, testbed.RunServer), newChild(bench.InstanceCommand, bench.RunInstance))
	return root
}

// newChild is what this program starts itself as: a server, or an instance.
func newChild(name string, run func(context.Context, io.Reader, io.Writer) error) *cobra.Command {
	return &cobra.Command{
		Use: name, Hidden: true, Args: command.Args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

// addSubproxy adds the flag that says which subproxy is run.
func addSubproxy(cmd *cobra.Command, program *string) *cobra.Command {
	cmd.Flags().StringVar(program, "subproxy", "", "`FILE`: the subproxy program that is run (default: the one beside this program, or in PATH)")
	return cmd
}
