package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/bench"
)

func newBenchDelivery() *cobra.Command {
	var f benchFlags
	o := bench.DeliveryOptions{}
	cmd := &cobra.Command{
		Use: "delivery", Short: "From the store's stream to the subscriber",
		Long: `Measure events a second and latency from a store's stream through emitter, proxy and sink to the subscriber, beside bare
nats.go consumers on the same stream in the same run, turn by turn. Everything is in one process, servers too; each part has a
connection of its own.`,
		Example: "  subproxy bench delivery\n  subproxy bench delivery --subscriptions 1 --sink publish --events 500000 --cpuprofile cpu.pb",
		Args:    args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case o.Events < 1000 || o.Events > 50_000_000:
				return usagef("--events: 1000 to 50000000, not %d", o.Events)
			case o.Servers != 1 && o.Servers != 3:
				return usagef("--servers: 1 or 3, not %d", o.Servers)
			case o.Size < bench.LeastSize || o.Size > 512<<10:
				return usagef("--size: %d to %d bytes, not %d", bench.LeastSize, 512<<10, o.Size)
			case o.Rounds < 1:
				return usagef("--rounds: at least 1")
			case o.Rate < 0 || o.Rate > 100_000:
				return usagef("--rate: 0 to 100000 events a second, not %d", o.Rate)
			}
			for _, n := range o.Subscriptions {
				if n < 1 || n > 100_000 {
					return usagef("--subscriptions: 1 to 100000, not %d", n)
				}
			}
			for _, s := range o.Sinks {
				if !slices.Contains(bench.Sinks, s) {
					return usagef("--sink: publish, request, stream or handler, not %q", s)
				}
			}
			o.Progress = cmd.ErrOrStderr()
			return f.finish(cmd, func(ctx context.Context) (*bench.Report, error) { return bench.Delivery(ctx, o) })
		},
	}
	f.add(cmd)
	flags := cmd.Flags()
	flags.IntVar(&o.Events, "events", 50_000, "events that each round delivers; sinks that wait for an answer get a tenth of them")
	flags.IntSliceVarP(&o.Subscriptions, "subscriptions", "n", []int{1, 100, 10_000}, "numbers of subscriptions to measure, comma-separated")
	flags.StringSliceVar(&o.Sinks, "sink", bench.Sinks, "sinks to measure with one subscription, comma-separated")
	flags.IntVar(&o.Servers, "servers", 1, "embedded servers: 1, or a cluster of 3")
	flags.IntVar(&o.Size, "size", 200, "`BYTES` of an event's data")
	flags.IntVar(&o.Rounds, "rounds", 3, "rounds with one subscription; two at most are for latency and for many subscriptions")
	flags.IntVar(&o.Rate, "rate", 2000, "events a second while latency is measured; 0 leaves latency out")
	return cmd
}
