package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/bench"
	"github.com/exesdb/subproxy/internal/command"
)

func newReregister() *cobra.Command {
	var o bench.ReregisterOptions
	m := measurement{Command: &cobra.Command{
		Use: "reregister", Short: "From a leader change to the registrations verified",
		Example: "  subproxy-bench reregister --subscriptions 10000\n  subproxy-bench reregister --subscriptions 100000 --servers 3 --json",
	}}
	m.check = func() error {
		if o.Samples < 1 || o.Rounds < 1 {
			return command.Usagef("--samples and --rounds: at least 1")
		}
		return errors.Join(within("--subscriptions", 1, mostSubscriptions, o.Subscriptions), oneOrThree(o.Servers))
	}
	m.measure = func(ctx context.Context, progress io.Writer) (*bench.Report, error) {
		o.Progress = progress
		return bench.Reregister(ctx, o)
	}
	flags := m.Flags()
	flags.IntVarP(&o.Subscriptions, "subscriptions", "n", 10_000, "subscriptions registered together; above 10000 they are compared with 10000")
	flags.IntVar(&o.Servers, "servers", 1, "embedded servers: 1, or a cluster of 3")
	flags.IntVar(&o.Samples, "samples", 100, "samples of one re-registration")
	flags.IntVar(&o.Rounds, "rounds", 7, "rounds of many re-registrations")
	return m.command()
}

func newIdle() *cobra.Command {
	var o bench.IdleOptions
	m := measurement{Command: &cobra.Command{
		Use: "idle", Short: "Memory and goroutines of idle subscriptions",
		Example: "  subproxy-bench idle --subscriptions 100000",
	}}
	m.check = func() error { return within("--subscriptions", 2, mostSubscriptions, o.Subscriptions) }
	m.measure = func(ctx context.Context, progress io.Writer) (*bench.Report, error) {
		o.Progress = progress
		return bench.Idle(ctx, o)
	}
	m.Flags().IntVarP(&o.Subscriptions, "subscriptions", "n", 100_000, "idle subscriptions")
	return addSubproxy(m.command(), &o.Subproxy)
}

func newDelivery() *cobra.Command {
	var o bench.DeliveryOptions
	m := measurement{Command: &cobra.Command{
		Use: "delivery", Short: "From the store's stream to the subscriber",
		Long: `Measure events a second and latency from a store's stream through emitter, proxy and sink to the subscriber, beside bare
nats.go consumers on the same stream in the same run, turn by turn. Everything is in one process, servers too; each part has a
connection of its own.`,
		Example: "  subproxy-bench delivery\n  subproxy-bench delivery --subscriptions 1 --sink publish --events 500000 --cpuprofile cpu.pb",
	}}
	m.check = func() error {
		const mostSize = 512 << 10
		switch {
		case o.Events < 1000 || o.Events > 50_000_000:
			return command.Usagef("--events: 1000 to 50000000, not %d", o.Events)
		case o.Size < bench.LeastSize || o.Size > mostSize:
			return command.Usagef("--size: %d to %d bytes, not %d", bench.LeastSize, mostSize, o.Size)
		case o.Rounds < 1:
			return command.Usagef("--rounds: at least 1")
		case o.Rate < 0 || o.Rate > 100_000:
			return command.Usagef("--rate: 0 to 100000 events a second, not %d", o.Rate)
		}
		for _, s := range o.Sinks {
			if !slices.Contains(bench.Sinks, s) {
				return command.Usagef("--sink: publish, request, stream or handler, not %q", s)
			}
		}
		return errors.Join(within("--subscriptions", 1, 100_000, o.Subscriptions...), oneOrThree(o.Servers))
	}
	m.measure = func(ctx context.Context, progress io.Writer) (*bench.Report, error) {
		o.Progress = progress
		return bench.Delivery(ctx, o)
	}
	flags := m.Flags()
	flags.IntVar(&o.Events, "events", 50_000, "events that each round delivers; sinks that wait for an answer get a tenth of them")
	flags.IntSliceVarP(&o.Subscriptions, "subscriptions", "n", []int{1, 100, 10_000}, "numbers of subscriptions to measure, comma-separated")
	flags.StringSliceVar(&o.Sinks, "sink", bench.Sinks, "sinks to measure with one subscription, comma-separated")
	flags.IntVar(&o.Servers, "servers", 1, "embedded servers: 1, or a cluster of 3")
	flags.IntVar(&o.Size, "size", 200, "`BYTES` of an event's data")
	flags.IntVar(&o.Rounds, "rounds", 3, "rounds with one subscription; two at most are for latency and for many subscriptions")
	flags.IntVar(&o.Rate, "rate", 2000, "events a second while latency is measured; 0 leaves latency out")
	return m.command()
}

func newLinks() *cobra.Command {
	var o bench.LinksOptions
	m := measurement{Command: &cobra.Command{
		Use: "links", Short: "Old events to a subscriber whose server is far away",
		Long: `Measure how fast old events get to a subscriber over a link with a long round trip, or a low rate, beside a tuned nats.go
durable consumer over the same link, turn by turn. The link is a relay in this process.`,
		Example: "  subproxy-bench links\n  subproxy-bench links --delay 500ms --rounds 1\n  subproxy-bench links --delay 0s --rate 1000000 --events 100 --size 600000",
	}}
	m.check = func() error {
		const mostSize = 900 << 10
		switch {
		case o.Events < 1 || o.Events > 1_000_000:
			return command.Usagef("--events: 1 to 1000000, not %d", o.Events)
		case o.Size < bench.LeastSize || o.Size > mostSize:
			return command.Usagef("--size: %d to %d bytes, not %d", bench.LeastSize, mostSize, o.Size)
		case o.Delay < 0 || o.Delay > 5*time.Second:
			return command.Usagef("--delay: 0s to 5s, not %s", o.Delay)
		case o.Rate < 0:
			return command.Usagef("--rate: not negative")
		case o.Rounds < 1:
			return command.Usagef("--rounds: at least 1")
		}
		return nil
	}
	m.measure = func(ctx context.Context, progress io.Writer) (*bench.Report, error) {
		o.Progress = progress
		return bench.Links(ctx, o)
	}
	flags := m.Flags()
	flags.IntVar(&o.Events, "events", 5000, "old events that each round delivers")
	flags.IntVar(&o.Size, "size", 200, "`BYTES` of an event's data")
	flags.DurationVar(&o.Delay, "delay", 150*time.Millisecond, "each way: a round trip takes twice that")
	flags.IntVar(&o.Rate, "rate", 0, "`BYTES` a second each way; 0: no limit")
	flags.IntVar(&o.Rounds, "rounds", 5, "rounds")
	return m.command()
}

func newFailover() *cobra.Command {
	var o bench.FailoverOptions
	m := measurement{Command: &cobra.Command{
		Use: "failover", Short: "How long subscribers get nothing after a NATS server or an emitter is gone",
		Long: `Measure how long subscribers get nothing, beyond the pause that the publisher itself has, while the server that leads the
store's stream is killed, and while the emitter that leads is killed or stopped. Three servers and two emitters are processes
of their own. Beside subproxy, nats.go's durable and ordered consumers get the same events.`,
		Example: "  subproxy-bench failover\n  subproxy-bench failover --rounds 10 --json",
	}}
	m.check = func() error { return within("--rounds", 1, 1000, o.Rounds) }
	m.measure = func(ctx context.Context, progress io.Writer) (*bench.Report, error) {
		o.Progress = progress
		return bench.Failover(ctx, o)
	}
	m.Flags().IntVar(&o.Rounds, "rounds", 3, "rounds of each kind of fault; one takes about 20 s for a server")
	return addSubproxy(m.command(), &o.Subproxy)
}

func newInstances() *cobra.Command {
	var o bench.InstancesOptions
	m := measurement{Command: &cobra.Command{
		Use: "instances", Short: "What it costs that subscriptions move among instances",
		Long: `Measure how long it takes until instances that share subscriptions each hold what they should, how long subscriptions pause
meanwhile, and what is lost: all start, one more joins and leaves, each is restarted in turn, three are killed, one after the
other. Servers, the emitter and the instances are processes of their own. Some of the subscriptions get events all the time.`,
		Example: "  subproxy-bench instances\n  subproxy-bench instances --instances 3 --subscriptions 1000 --json",
	}}
	m.check = func() error {
		for _, n := range o.Instances {
			if n < 1 || n > 100 {
				return command.Usagef("--instances: 1 to 100 each, not %d", n)
			}
		}
		if !m.Flags().Changed("sampled") {
			o.Sampled = min(o.Sampled, o.Subscriptions)
		}
		if err := within("--subscriptions", 1, mostSubscriptions, o.Subscriptions); err != nil {
			return err
		}
		if o.Sampled < 1 || o.Sampled > o.Subscriptions {
			return command.Usagef("--sampled: 1 to the number of subscriptions, not %d", o.Sampled)
		}
		return oneOrThree(o.Servers)
	}
	m.measure = func(ctx context.Context, progress io.Writer) (*bench.Report, error) {
		o.Progress = progress
		return bench.Instances(ctx, o)
	}
	flags := m.Flags()
	flags.IntSliceVar(&o.Instances, "instances", []int{1, 3, 10}, "how many instances, one set after the other")
	flags.IntVarP(&o.Subscriptions, "subscriptions", "n", 10_000, "subscriptions that they share")
	flags.IntVar(&o.Sampled, "sampled", 50, "of them, those that get events")
	flags.IntVar(&o.Servers, "servers", 1, "nats-server processes: 1, or a cluster of 3")
	return addSubproxy(m.command(), &o.Subproxy)
}

func newScale() *cobra.Command {
	var o bench.ScaleOptions
	m := measurement{Command: &cobra.Command{
		Use: "scale", Short: "What one instance takes as its subscriptions become more, and who waits then",
		Long: `Measure one instance with more and more subscriptions, in the default configuration: how long it takes from its start, and
after a leader change, until all are verified, and what it takes while nothing happens. Then, with the most of them, how long
an operator waits for the status of one subscription, and for its reregistration, while all register: at a cold start, after
a leader change, and after NATS was killed and started again. Servers and instance are processes of their own; the raw NATS
operations and an idle raw connection are measured beside them.

The default takes about ten minutes; most of it is waiting for idle timers.`,
		Example: "  subproxy-bench scale\n  subproxy-bench scale --subscriptions 1000,10000 --rounds 1 --idle 10s --json",
	}}
	m.check = func() error {
		o.CPUProfile, m.cpuProfile = m.cpuProfile, "" // the instance writes it
		switch {
		case o.Rounds < 1:
			return command.Usagef("--rounds: at least 1")
		case o.Idle < 0:
			return command.Usagef("--idle: not negative")
		case len(o.Subscriptions) == 0 || !slices.IsSorted(o.Subscriptions):
			return command.Usagef("--subscriptions: numbers in ascending order")
		}
		return errors.Join(within("--subscriptions", 1, mostSubscriptions, o.Subscriptions...), oneOrThree(o.Servers))
	}
	m.measure = func(ctx context.Context, progress io.Writer) (*bench.Report, error) {
		o.Progress = progress
		return bench.Scale(ctx, o)
	}
	cmd := m.command()
	flags := cmd.Flags()
	flags.Lookup("cpuprofile").Usage = "write a CPU profile of the instance in the last round of storms to `FILE`, for go tool pprof"
	flags.IntSliceVarP(&o.Subscriptions, "subscriptions", "n", []int{1000, 10_000, 100_000}, "numbers of subscriptions to measure, comma-separated, ascending")
	flags.IntVar(&o.Servers, "servers", 1, "servers: 1, or a cluster of 3")
	flags.IntVar(&o.Rounds, "rounds", 3, "rounds of each start, leader change and storm")
	flags.DurationVar(&o.Idle, "idle", 0, "how long idle instances are watched (default: one interval of their timers)")
	flags.BoolVar(&o.Storms, "storms", true, "time an operator's requests while the most subscriptions register")
	return cmd
}
