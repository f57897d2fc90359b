package testbed_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func startServer(t testing.TB, o testbed.ServerOptions) *testbed.Server {
	t.Helper()
	o.Stderr = os.Stderr
	p, err := testbed.StartServer(within(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Shutdown)
	return p
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestKilledProcessComesBackWithPortAndStore(t *testing.T) {
	p := startServer(t, testbed.ServerOptions{})
	_, js := connect(t, p.URL())
	createStream(t, js, "s", 1)
	publish(t, js, "s.a")
	for _, end := range []func() error{p.Kill, p.Stop} {
		before := p.PID()
		must(t, end())
		must(t, end())
		if p.Running() {
			t.Fatal("it still runs")
		}
		wantErr(t, p.Pause(), testbed.ErrNotRunning)
		must(t, p.Restart(within(t)))
		if p.PID() == before {
			t.Fatal("the same process")
		}
		wantMessages(t, js, "s", 1)
	}
}

func TestPausedProcessAnswersNothingUntilContinued(t *testing.T) {
	p := startServer(t, testbed.ServerOptions{})
	nc, _ := connect(t, p.URL())
	must(t, p.Pause())
	eventually(t, func() error { // the kernel takes its time to stop the last thread
		if err := nc.FlushTimeout(100 * time.Millisecond); !errors.Is(err, nats.ErrTimeout) {
			return fmt.Errorf("flush to a paused server: %v", err)
		}
		return nil
	})
	must(t, p.Continue())
	eventually(t, func() error { return nc.FlushTimeout(time.Second) })
	must(t, p.Pause())
	must(t, p.Stop())
}

func TestProcessesAreACluster(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	began := time.Now()
	ps, err := testbed.StartServers(within(t), 3, testbed.ServerOptions{Stderr: os.Stderr})
	must(t, err)
	t.Logf("3 processes ready after %s", time.Since(began).Round(time.Millisecond))
	t.Cleanup(ps.Shutdown)
	_, js := connect(t, ps.URLs())
	createStream(t, js, "s", 3)
	publish(t, js, "s.a")
	leader, err := ps.StreamLeader(within(t), js, "s")
	must(t, err)
	must(t, leader.Kill())
	eventually(t, func() error {
		ctx, cancel := context.WithTimeout(within(t), time.Second)
		defer cancel()
		_, err := js.Publish(ctx, "s.b", nil)
		return err
	})
	next, err := ps.StreamLeader(within(t), js, "s")
	must(t, err)
	if next == leader {
		t.Fatal("the killed process leads")
	}
	must(t, leader.Restart(within(t)))
	must(t, ps.WaitReady(within(t)))
}

func TestStartProcessSaysWhatPreventsIt(t *testing.T) {
	p := startServer(t, testbed.ServerOptions{})
	port, err := strconv.Atoi(p.URL()[strings.LastIndex(p.URL(), ":")+1:])
	must(t, err)
	if _, err := testbed.StartServer(within(t), testbed.ServerOptions{Port: port}); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Fatalf("a second server on the port: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = testbed.StartServer(ctx, testbed.ServerOptions{})
	wantErr(t, err, context.Canceled)
}

func TestNoChildOutlivesAKilledParent(t *testing.T) {
	for _, how := range []string{"run", "pause"} {
		t.Run(how, func(t *testing.T) {
			parent := exec.Command(os.Args[0])
			parent.Env = append(os.Environ(), parentEnv+"="+how, "TESTBED_TEST_STORE="+t.TempDir())
			parent.Stderr = os.Stderr
			out, err := parent.StdoutPipe()
			must(t, err)
			must(t, parent.Start())
			line, readErr := bufio.NewReader(out).ReadString('\n')
			must(t, parent.Process.Kill())
			_ = parent.Wait()
			must(t, readErr)
			pid, err := strconv.Atoi(strings.TrimSpace(line))
			must(t, err)
			eventually(t, func() error {
				if running(pid) {
					return errors.New("the child outlived its parent")
				}
				return nil
			})
		})
	}
}

// running is false for a zombie as well: an orphan's new parent may take its time to bury it.
func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

func TestRunServerEndsWithItsInput(t *testing.T) {
	in, parent := io.Pipe()
	reports, out := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- testbed.RunServer(context.Background(), in, out) }()
	if _, err := io.WriteString(parent, `{"name":"n","store_dir":"`+t.TempDir()+`"}`+"\n"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(reports).ReadString('\n')
	if err != nil || !strings.Contains(line, `"name":"n"`) {
		t.Fatalf("first report %q, %v", line, err)
	}
	go func() { _, _ = io.Copy(io.Discard, reports) }()
	must(t, parent.Close())
	must(t, <-done)
	must(t, out.Close())
}

func TestProcessTakesOverWhoMayDoWhat(t *testing.T) {
	users := func(deny ...string) []*server.User {
		return []*server.User{{Username: "u", Password: "u", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: deny}}}}
	}
	p := startServer(t, testbed.ServerOptions{Users: users(), NoAuthUser: "u"})
	nc, _ := connect(t, p.URL())
	refused := func() bool {
		t.Helper()
		must(t, errors.Join(nc.Publish("a", nil), nc.Flush()))
		return errors.Is(nc.LastError(), nats.ErrPermissionViolation)
	}
	if refused() {
		t.Fatal("it is refused from the start")
	}
	must(t, p.Reload(within(t), users("a")))
	if !refused() {
		t.Error("it is permitted still")
	}
	must(t, p.Kill())
	wantErr(t, p.Reload(within(t), users()), testbed.ErrNotRunning)
}
