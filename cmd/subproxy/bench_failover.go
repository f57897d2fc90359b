package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/bench"
)

func newBenchFailover() *cobra.Command {
	var f benchFlags
	o := bench.FailoverOptions{}
	cmd := &cobra.Command{
		Use: "failover", Short: "How long subscribers get nothing after a NATS server or an emitter is gone",
		Long: `Measure how long subscribers get nothing, beyond the pause that the publisher itself has, while the server that leads the
store's stream is killed, and while the emitter that leads is killed or stopped. Three servers and two emitters run as
processes of this program. Beside subproxy, nats.go's durable and ordered consumers get the same events.`,
		Example: "  subproxy bench failover\n  subproxy bench failover --rounds 10 --json",
		Args:    args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Rounds < 1 || o.Rounds > 1000 {
				return usagef("--rounds: 1 to 1000, not %d", o.Rounds)
			}
			o.Progress = cmd.ErrOrStderr()
			return f.finish(cmd, func(ctx context.Context) (*bench.Report, error) { return bench.Failover(ctx, o) })
		},
	}
	f.add(cmd)
	cmd.Flags().IntVar(&o.Rounds, "rounds", 3, "rounds of each kind of fault; one takes about 20 s for a server")
	return cmd
}
