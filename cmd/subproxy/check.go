package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/config"
)

func newCheck() *cobra.Command {
	var file string
	var defaults bool
	cmd := &cobra.Command{
		Use: "check --config FILE | --defaults", Short: "Check a configuration, or print a complete one",
		Long: `Check a configuration file as subproxy run would read it, environment included, and print every mistake at once,
each with its line, its column and what would be right. With --defaults, print a complete commented configuration:
every key, its default, unit, range and environment variable.`,
		Example: "  subproxy check --config subproxy.yaml\n  subproxy check --defaults > subproxy.yaml",
		Args:    args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case defaults && file != "":
				return usagef("--config and --defaults exclude each other")
			case defaults:
				return config.WriteDefaults(cmd.OutOrStdout())
			case file == "":
				return usagef("give --config FILE to check, or --defaults")
			}
			c, err := config.Load(file, os.LookupEnv)
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
			n := 0
			for _, s := range c.Stores {
				n += len(s.Subscriptions)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: good; stores %d, subscriptions %d, instance %s\n", file, len(c.Stores), n, c.Instance.Name)
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration `FILE`")
	cmd.Flags().BoolVar(&defaults, "defaults", false, "print a complete commented configuration")
	return cmd
}
