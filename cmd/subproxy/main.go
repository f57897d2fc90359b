// Command subproxy keeps event-store subscriptions attached to a leader that moves.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/command"
)

func main() {
	os.Exit(command.Run(newRoot()))
}

func newRoot() *cobra.Command {
	root := command.Root(&cobra.Command{
		Use:   "subproxy",
		Short: "Keeps event-store subscriptions attached to a leader that moves",
		Long: `subproxy registers event-store subscriptions in a JetStream KV bucket, registers them anew the moment the
store's leader changes or its emitters restart, reads each registration back, and reports their health.

Start with the built-in example, which needs nothing installed:

  subproxy run --embedded`,
	})
	root.AddCommand(newRun(), newCheck(), newList(), newStatus(), newRestart(), newReregister(), newResetTerm(), newMembers(), newDrain(),
		newPublish(), newEmitter(), newParked(), newCheckpoints(), newVersion())
	return root
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: command.Args(0, 0, "no arguments"),
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "subproxy", command.Version()) },
	}
}
