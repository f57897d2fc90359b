package bench

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/exesdb/subproxy/internal/testbed"
)

// TestMain is, at need, the server or the instance that a bench starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case testbed.ServerCommand:
			exit(testbed.RunServer(context.Background(), os.Stdin, os.Stdout))
		case InstanceCommand:
			exit(RunInstance(context.Background(), os.Stdin, os.Stdout))
		}
	}
	goleak.VerifyTestMain(m)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
