package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/service"
)

func newCheck() *cobra.Command {
	var file string
	var defaults, connected bool
	cmd := &cobra.Command{
		Use: "check --config FILE | --defaults", Short: "Check a configuration, or print a complete one",
		Long: `Check a configuration file as subproxy run would read it, environment included, and print every mistake at once,
each with its line, its column and what would be right. A warning is of what is taken as it is written, and is
probably not what is meant; the exit status is 0 all the same. With --defaults, print a complete commented configuration:
every key, its default, unit, range and environment variable.

With --connect, connect as the configuration says and look at what it needs of NATS as well: server, buckets and the stream of parked
events (those that are absent will be created), stores' streams where emitter.enabled, what stream sinks store in, bridged streams.
Nothing is started, created or changed. The exit status is 1 where something keeps subproxy from starting.`,
		Example: "  subproxy check --config subproxy.yaml\n  subproxy check --config subproxy.yaml --connect\n  subproxy check --defaults > subproxy.yaml",
		Args:    command.Args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case defaults && connected:
				return command.Usagef("--connect needs --config FILE")
			case defaults && file != "":
				return command.Usagef("--config and --defaults exclude each other")
			case defaults:
				return config.WriteDefaults(cmd.OutOrStdout())
			case file == "":
				return command.Usagef("give --config FILE to check, or --defaults")
			}
			c, warnings, err := config.LoadWithWarnings(file, os.LookupEnv)
			var problems config.Problems
			if errors.As(err, &problems) {
				for _, p := range problems {
					fmt.Fprintln(cmd.OutOrStdout(), p)
				}
				return fmt.Errorf("%s: %d to mend", file, len(problems))
			}
			if err != nil {
				return err
			}
			for _, w := range warnings {
				fmt.Fprintln(cmd.OutOrStdout(), w)
			}
			n := 0
			for _, s := range c.Stores {
				n += len(s.Subscriptions)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: good; stores %d, subscriptions %d, instance %s\n", file, len(c.Stores), n, c.Instance.Name)
			if connected {
				return inspect(cmd, c)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&connected, "connect", false, "look at what the configuration needs of NATS, too")
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration `FILE`")
	cmd.Flags().BoolVar(&defaults, "defaults", false, "print a complete commented configuration")
	return cmd
}

// inspect prints what NATS has of what the configuration needs, and then each problem with its cure.
func inspect(cmd *cobra.Command, c *config.Config) error {
	findings, err := service.Inspect(cmd.Context(), c)
	if err != nil {
		return err
	}
	t := newTable(cmd, "WHAT", "NAME", "FOUND", "")
	problems := 0
	for _, f := range findings {
		outcome := "good"
		switch {
		case f.Warning:
			outcome = "warning"
		case f.Problem != nil:
			outcome = "problem"
			problems++
		}
		t.AppendRow(table.Row{f.What, f.Name, f.State, outcome})
	}
	t.Render()
	for _, f := range findings {
		if f.Problem != nil {
			fmt.Fprintf(cmd.OutOrStdout(), "\n%s %s: %v\n", f.What, f.Name, f.Problem)
		}
	}
	if problems > 0 {
		return fmt.Errorf("%d of %d to mend", problems, len(findings))
	}
	return nil
}
