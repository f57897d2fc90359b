package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"strings"

	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/bench"
	"github.com/exesdb/subproxy/internal/command"
)

// measurement is a bench as a command: it has the flags that every bench has, and prints a report.
type measurement struct {
	*cobra.Command
	check   func() error // of the flags
	measure func(ctx context.Context, progress io.Writer) (*bench.Report, error)

	asJSON, strict bool
	cpuProfile     string
}

func (m *measurement) command() *cobra.Command {
	m.Args = command.Args(0, 0, "no arguments")
	m.RunE = m.run
	flags := m.Flags()
	flags.BoolVar(&m.asJSON, "json", false, "print JSON")
	flags.BoolVar(&m.strict, "check", false, "end with status 1, naming the target, where one is missed")
	flags.StringVar(&m.cpuProfile, "cpuprofile", "", "write a CPU profile of the run to `FILE`, for go tool pprof")
	return m.Command
}

func (m *measurement) run(cmd *cobra.Command, _ []string) error {
	if err := m.check(); err != nil {
		return err
	}
	if m.cpuProfile != "" {
		file, err := os.Create(m.cpuProfile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	report, err := m.measure(cmd.Context(), cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	if m.asJSON {
		err = command.WriteJSON(cmd.OutOrStdout(), report)
	} else {
		report.Write(cmd.OutOrStdout())
	}
	if missed := report.Missed(); err == nil && m.strict && len(missed) > 0 {
		names := make([]string, len(missed))
		for i, t := range missed {
			names[i] = fmt.Sprintf("%s: %s, wanted %s", t.Name, t.Got(), t.Wanted())
		}
		return fmt.Errorf("missed %s", strings.Join(names, "; "))
	}
	return err
}

// oneOrThree checks a number of servers.
func oneOrThree(servers int) error {
	if servers != 1 && servers != 3 {
		return command.Usagef("--servers: 1 or 3, not %d", servers)
	}
	return nil
}

// within checks a flag's numbers.
func within(flag string, least, most int, numbers ...int) error {
	for _, n := range numbers {
		if n < least || n > most {
			return command.Usagef("%s: %d to %d, not %d", flag, least, most, n)
		}
	}
	return nil
}

const mostSubscriptions = 1_000_000
