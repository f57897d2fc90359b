package main

import (
	"context"
	"fmt"
	"os"
	"runtime/pprof"
	"strings"

	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/bench"
	"github.com/exesdb/subproxy/internal/natsnode"
)

func newBench() *cobra.Command {
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure subproxy beside the raw NATS operations, on this machine",
		Long: `Measure subproxy beside the raw NATS operations that it is made of, on the same machine in the same run. Servers are
started for it and ended with it. Targets are ratios; with --check a missed one is named and the exit status is 1.`,
		Args: args(0, 0, "a bench"),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBenchReregister(), newBenchIdle(), newBenchDelivery(), newBenchFailover(), newBenchScale(), newBenchInstances())
	return cmd
}

// benchFlags are the flags that every bench has.
type benchFlags struct {
	asJSON, check bool
	cpuProfile    string
}

func (f *benchFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&f.check, "check", false, "end with status 1, naming the target, where one is missed")
	cmd.Flags().StringVar(&f.cpuProfile, "cpuprofile", "", "write a CPU profile of the run to `FILE`, for go tool pprof")
}

func (f *benchFlags) finish(cmd *cobra.Command, measure func(context.Context) (*bench.Report, error)) error {
	if f.cpuProfile != "" {
		file, err := os.Create(f.cpuProfile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	report, err := measure(cmd.Context())
	if err != nil {
		return err
	}
	if f.asJSON {
		err = writeJSON(cmd.OutOrStdout(), report)
	} else {
		report.Write(cmd.OutOrStdout())
	}
	if missed := report.Missed(); err == nil && f.check && len(missed) > 0 {
		names := make([]string, len(missed))
		for i, t := range missed {
			names[i] = fmt.Sprintf("%s: %s, wanted %s", t.Name, t.Got(), t.Wanted())
		}
		return fmt.Errorf("missed %s", strings.Join(names, "; "))
	}
	return err
}

func newBenchReregister() *cobra.Command {
	var f benchFlags
	o := bench.ReregisterOptions{}
	cmd := &cobra.Command{
		Use: "reregister", Short: "From a leader change to the registrations verified",
		Example: "  subproxy bench reregister --subscriptions 10000\n  subproxy bench reregister --subscriptions 100000 --servers 3 --json",
		Args:    args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case o.Subscriptions < 1 || o.Subscriptions > 1_000_000:
				return usagef("--subscriptions: 1 to 1000000, not %d", o.Subscriptions)
			case o.Servers != 1 && o.Servers != 3:
				return usagef("--servers: 1 or 3, not %d", o.Servers)
			case o.Samples < 1 || o.Rounds < 1:
				return usagef("--samples and --rounds: at least 1")
			}
			o.Progress = cmd.ErrOrStderr()
			return f.finish(cmd, func(ctx context.Context) (*bench.Report, error) { return bench.Reregister(ctx, o) })
		},
	}
	f.add(cmd)
	cmd.Flags().IntVarP(&o.Subscriptions, "subscriptions", "n", 10_000, "subscriptions registered together; above 10000 they are compared with 10000")
	cmd.Flags().IntVar(&o.Servers, "servers", 1, "embedded servers: 1, or a cluster of 3")
	cmd.Flags().IntVar(&o.Samples, "samples", 100, "samples of one re-registration")
	cmd.Flags().IntVar(&o.Rounds, "rounds", 7, "rounds of many re-registrations")
	return cmd
}

func newBenchIdle() *cobra.Command {
	var f benchFlags
	o := bench.IdleOptions{}
	cmd := &cobra.Command{
		Use: "idle", Short: "Memory and goroutines of idle subscriptions",
		Example: "  subproxy bench idle --subscriptions 100000",
		Args:    args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Subscriptions < 2 || o.Subscriptions > 1_000_000 {
				return usagef("--subscriptions: 2 to 1000000, not %d", o.Subscriptions)
			}
			o.Progress = cmd.ErrOrStderr()
			return f.finish(cmd, func(ctx context.Context) (*bench.Report, error) { return bench.Idle(ctx, o) })
		},
	}
	f.add(cmd)
	cmd.Flags().IntVarP(&o.Subscriptions, "subscriptions", "n", 100_000, "idle subscriptions")
	return cmd
}

// newServerNode is the server of bench idle, as a process of its own.
func newServerNode() *cobra.Command {
	return &cobra.Command{
		Use: natsnode.ChildCommand, Hidden: true, Args: args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return natsnode.RunChild(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
