package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/bench"
)

func newBenchScale() *cobra.Command {
	var f benchFlags
	o := bench.ScaleOptions{}
	cmd := &cobra.Command{
		Use: "scale", Short: "What one instance takes as its subscriptions become more, and who waits then",
		Long: `Measure one instance with more and more subscriptions, in the default configuration: how long it takes from its start, and
after a leader change, until all are verified, and what it takes while nothing happens. Then, with the most of them, how long
an operator waits for the status of one subscription, and for its reregistration, while all register: at a cold start, after
a leader change, and after NATS was killed and started again. Servers and instance are processes of this program; the raw
NATS operations and an idle raw connection are measured beside them.

The default takes about ten minutes; most of it is waiting for idle timers.`,
		Example: "  subproxy bench scale\n  subproxy bench scale --subscriptions 1000,10000 --rounds 1 --idle 10s --json",
		Args:    args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case o.Servers != 1 && o.Servers != 3:
				return usagef("--servers: 1 or 3, not %d", o.Servers)
			case o.Rounds < 1:
				return usagef("--rounds: at least 1")
			case o.Idle < 0:
				return usagef("--idle: not negative")
			case len(o.Subscriptions) == 0 || !slices.IsSorted(o.Subscriptions):
				return usagef("--subscriptions: numbers in ascending order")
			}
			for _, n := range o.Subscriptions {
				if n < 1 || n > 1_000_000 {
					return usagef("--subscriptions: 1 to 1000000, not %d", n)
				}
			}
			o.Progress, o.CPUProfile = cmd.ErrOrStderr(), f.cpuProfile
			f.cpuProfile = "" // the instance writes it
			return f.finish(cmd, func(ctx context.Context) (*bench.Report, error) { return bench.Scale(ctx, o) })
		},
	}
	f.add(cmd)
	flags := cmd.Flags()
	flags.Lookup("cpuprofile").Usage = "write a CPU profile of the instance in the last round of storms to `FILE`, for go tool pprof"
	flags.IntSliceVarP(&o.Subscriptions, "subscriptions", "n", []int{1000, 10_000, 100_000}, "numbers of subscriptions to measure, comma-separated, ascending")
	flags.IntVar(&o.Servers, "servers", 1, "servers: 1, or a cluster of 3")
	flags.IntVar(&o.Rounds, "rounds", 3, "rounds of each start, leader change and storm")
	flags.DurationVar(&o.Idle, "idle", 0, "how long idle instances are watched (default: one interval of their timers)")
	flags.BoolVar(&o.Storms, "storms", true, "time an operator's requests while the most subscriptions register")
	return cmd
}

// newBenchInstance is an instance of bench scale, as a process of its own.
func newBenchInstance() *cobra.Command {
	return &cobra.Command{
		Use: bench.InstanceCommand, Hidden: true, Args: args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.RunInstance(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
