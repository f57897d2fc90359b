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

// builtSubproxy is the subproxy program.
func builtSubproxy(t *testing.T) string {
	t.Helper()
	if *chaosRace {
		return harness.Program(t, "subproxy", "-race")
	}
	return harness.Program(t, "subproxy")
}
