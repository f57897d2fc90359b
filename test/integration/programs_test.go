package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/exesdb/subproxy/internal/testbed"
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
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if programs.dir != "" {
			if err := os.RemoveAll(programs.dir); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
		os.Exit(code)
	}))
}

// processPrograms are the programs that the tests run.
type processPrograms struct {
	natsServer, subproxy string
	nats                 string // the CLI; empty where it could not be installed
	noCLI                error  // why not
}

// programs are built by the first test that needs them, for all.
var programs struct {
	build, install sync.Once
	dir            string
	processPrograms
	err error // of the build
}

// processBuild builds nats-server and subproxy, and installs the nats CLI.
func processBuild(t *testing.T) *processPrograms {
	t.Helper()
	deliveryBuild(t)
	programs.install.Do(func() {
		if programs.noCLI = goTool("install", "github.com/nats-io/natscli/nats@v0.5.1"); programs.noCLI == nil {
			programs.nats = filepath.Join(programs.dir, "nats")
		}
	})
	return &programs.processPrograms
}

// deliveryBuild builds nats-server and subproxy.
func deliveryBuild(t *testing.T) *processPrograms {
	t.Helper()
	programs.build.Do(func() {
		if programs.dir, programs.err = os.MkdirTemp("", "subproxy-test-"); programs.err != nil {
			return
		}
		programs.natsServer, programs.subproxy = filepath.Join(programs.dir, "nats-server"), filepath.Join(programs.dir, "subproxy")
		build := []string{"build", "-o", programs.subproxy, "github.com/exesdb/subproxy/cmd/subproxy"}
		if *chaosRace {
			build = append([]string{"build", "-race"}, build[1:]...)
		}
		programs.err = errors.Join(goTool("build", "-o", programs.natsServer, "github.com/nats-io/nats-server/v2"), goTool(build...))
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return &programs.processPrograms
}

// goTool runs the go that runs the test: go test puts its own first in PATH.
func goTool(args ...string) error {
	tool, err := exec.LookPath("go")
	if err != nil {
		return err
	}
	cmd := exec.Command(tool, args...)
	cmd.Env = append(os.Environ(), "GOBIN="+programs.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
