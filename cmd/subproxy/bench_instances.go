package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/bench"
)

func newBenchInstances() *cobra.Command {
	var f benchFlags
	o := bench.InstancesOptions{}
	cmd := &cobra.Command{
		Use: "instances", Short: "What it costs that subscriptions move among instances",
		Long: `Measure how long it takes until instances that share subscriptions each hold what they should, how long subscriptions pause
meanwhile, and what is lost: all start, one more joins and leaves, each is restarted in turn, three are killed, one after the
other. Servers, the emitter and the instances run as processes of this program. Some of the subscriptions get events all the time.`,
		Example: "  subproxy bench instances\n  subproxy bench instances --instances 3 --subscriptions 1000 --json",
		Args:    args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, n := range o.Instances {
				if n < 1 || n > 100 {
					return usagef("--instances: 1 to 100 each, not %d", n)
				}
			}
			if !cmd.Flags().Changed("sampled") {
				o.Sampled = min(o.Sampled, o.Subscriptions)
			}
			switch {
			case o.Subscriptions < 1 || o.Subscriptions > 1_000_000:
				return usagef("--subscriptions: 1 to 1000000, not %d", o.Subscriptions)
			case o.Sampled < 1 || o.Sampled > o.Subscriptions:
				return usagef("--sampled: 1 to the number of subscriptions, not %d", o.Sampled)
			case o.Servers != 1 && o.Servers != 3:
				return usagef("--servers: 1 or 3, not %d", o.Servers)
			}
			o.Progress = cmd.ErrOrStderr()
			return f.finish(cmd, func(ctx context.Context) (*bench.Report, error) { return bench.Instances(ctx, o) })
		},
	}
	f.add(cmd)
	cmd.Flags().IntSliceVar(&o.Instances, "instances", []int{1, 3, 10}, "how many instances, one set after the other")
	cmd.Flags().IntVarP(&o.Subscriptions, "subscriptions", "n", 10_000, "subscriptions that they share")
	cmd.Flags().IntVar(&o.Sampled, "sampled", 50, "of them, those that get events")
	cmd.Flags().IntVar(&o.Servers, "servers", 1, "nats-server processes: 1, or a cluster of 3")
	return cmd
}
