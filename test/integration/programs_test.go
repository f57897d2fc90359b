package integration

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/test/harness"
	"go.uber.org/goleak"
)

// TestMain is, at need, the server that testbed.StartServer starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == testbed.ServerCommand {
		if err := testbed.RunServer(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// processPrograms are the programs that the tests run.
type processPrograms struct{ natsServer, subproxy string }

// builtPrograms builds them, once a run.
func builtPrograms(t *testing.T) *processPrograms {
	t.Helper()
	var flags []string
	if *chaosRace {
		flags = []string{"-race"}
	}
	return &processPrograms{harness.Program(t, "github.com/nats-io/nats-server/v2"), harness.Program(t, "subproxy", flags...)}
}
