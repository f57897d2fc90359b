package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/internal/demo"
)

func newDemo() *cobra.Command {
	const (
		shortest  = 10 * time.Second
		leastRate = 10
		mostRate  = 500
	)
	var o demo.Options
	cmd := &cobra.Command{
		Use: "demo", Short: "Break things and see that nothing is lost",
		Long: `Start a NATS cluster of three, two emitters, two instances with subscriptions, a publisher and subscribers, all on this
machine and with nothing installed; then break one thing after another: the emitters' leader is stopped or killed, a
registration is deleted by hand, a NATS node is killed or stopped. Each is a line: how long until the registrations were
verified again, how long delivery paused, and how many events were sent, delivered, lost and duplicated so far.

It ends by itself with a summary; Ctrl-C ends it early, with the summary too. The exit status is 1 if an event was lost.
With --compare a second store suffers the same faults, whose instances hear no cluster events and register by timer.`,
		Example: "  subproxy-bench demo\n  subproxy-bench demo --duration 5m --compare\n  subproxy-bench demo --seed 42",
		Args:    command.Args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case o.Duration < shortest:
				return command.Usagef("--duration: at least %s, not %s", shortest, o.Duration)
			case o.Rate < leastRate || o.Rate > mostRate:
				return command.Usagef("--rate: %d to %d, not %d", leastRate, mostRate, o.Rate)
			}
			if o.Seed == 0 {
				o.Seed = 1 + rand.Uint64N(1_000_000)
			}
			o.Out = cmd.OutOrStdout()
			result, err := demo.Run(cmd.Context(), o)
			switch {
			case err != nil:
				return err
			case result.Lost > 0:
				return fmt.Errorf("%d events were lost; please report it with the seed (%d) and the logs", result.Lost, o.Seed)
			case result.Foreign > 0:
				return fmt.Errorf("%d events went to subscribers that do not want them; please report it with the seed (%d) and the logs", result.Foreign, o.Seed)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&o.Duration, "duration", time.Minute, "how long things break; at least 10s")
	flags.BoolVar(&o.Compare, "compare", false, "the same faults beside it for a store without cluster events, by timer only")
	flags.Uint64Var(&o.Seed, "seed", 0, "`N` that decides what breaks when; 0: another one each time")
	flags.IntVar(&o.Rate, "rate", 50, "events a second, 10 to 500")
	return addSubproxy(cmd, &o.Subproxy)
}
