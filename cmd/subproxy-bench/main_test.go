package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/jedib0t/go-pretty/v6/text"
	"go.uber.org/goleak"

	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/internal/testbed"
)

// TestMain is, at need, the server that a bench starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == testbed.ServerCommand {
		os.Exit(command.Run(newRoot()))
	}
	text.DisableColors()
	goleak.VerifyTestMain(m)
}

// execute runs a command line in this process.
func execute(t *testing.T, args ...string) (output string, err error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	err = root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestMistakesInTheCommandLineAreUsageErrors(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"fly", `unknown command "fly"; see subproxy-bench --help`},
		{"reregister x", "subproxy-bench reregister takes no arguments, not 1"},
		{"reregister --subscriptions 0", "--subscriptions: 1 to 1000000, not 0"},
		{"reregister --servers 2", "--servers: 1 or 3, not 2"},
		{"reregister --samples 0", "at least 1"},
		{"delivery --sink mail", "--sink: publish, request, stream or handler"},
		{"delivery -n 1,0", "--subscriptions: 1 to 100000, not 0"},
		{"failover --rounds 0", "--rounds: 1 to 1000, not 0"},
		{"instances --instances 3,0", "--instances: 1 to 100 each, not 0"},
		{"instances --sampled 11 -n 10", "--sampled: 1 to the number of subscriptions, not 11"},
		{"idle -n 1", "--subscriptions: 2 to"},
		{"scale -n 10,5", "--subscriptions: numbers in ascending order"},
		{"scale -n 0,5", "--subscriptions: 1 to 1000000, not 0"},
		{"scale --idle=-1s", "--idle: not negative"},
		{"demo x", "subproxy-bench demo takes no arguments, not 1"},
		{"demo --duration 9s", "--duration: at least 10s, not 9s"},
		{"demo --duration soon", "--duration"},
		{"demo --rate 9", "--rate: 10 to 500, not 9"},
		{"demo --rate 501", "--rate: 10 to 500, not 501"},
		{"demo --seed -1", "--seed"},
		{"demo --fly", "see subproxy-bench demo --help"},
	} {
		out, err := execute(t, strings.Fields(c.args)...)
		var use *command.UsageError
		if !errors.As(err, &use) || !strings.Contains(err.Error(), c.says) || out != "" {
			t.Errorf("subproxy-bench %s: got %v; want a usage error that says %s\n%s", c.args, err, c.says, out)
		}
	}
}

func TestOnlyWhatIsRunByAReaderIsListed(t *testing.T) {
	out, err := execute(t, "--help")
	if err != nil || strings.Contains(out, testbed.ServerCommand) || !strings.Contains(out, "demo ") || !strings.Contains(out, "instances ") {
		t.Errorf("%v\n%s", err, out)
	}
}
