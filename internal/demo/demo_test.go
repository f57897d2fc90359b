package demo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/test/harness"
)

// TestMain is, at need, the program that natsnode starts.
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

// built is a program of this module under a file name of this test's own: other tests run it at the same
// time.
func built(t *testing.T, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a dozen processes")
	}
	file := filepath.Join(t.TempDir(), name)
	if err := os.Link(harness.Program(t, name), file); err != nil {
		t.Fatal(err)
	}
	return file
}

// screen is where a demo writes; it calls seen at each write.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	seen func(all string)
}

func (s *screen) Write(data []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(data)
	if s.seen != nil {
		s.seen(s.text.String())
	}
	return len(data), nil
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func testOptions(t *testing.T, out *screen) Options {
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(out.String())
		}
	})
	return Options{Out: out, Duration: 10 * time.Second, Seed: 1, Rate: 50, Gap: 300 * time.Millisecond, Subproxy: built(t, "subproxy")}
}

// wantNothingLeft checks that none of the processes runs that a demo in this one starts.
func wantNothingLeft(t *testing.T, o *Options) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if left := append(running(t, o.Subproxy), running(t, self+"\x00"+testbed.ServerCommand)...); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
}

// running are the processes whose command line begins so.
func running(t *testing.T, command string) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil && bytes.HasPrefix(line, []byte(command+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			pids = append(pids, pid)
		}
	}
	return pids
}

func wantLines(t *testing.T, out string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(out) {
			t.Errorf("no line %s", line)
		}
	}
}

const (
	took   = ` +[0-9.]+ m?s`
	counts = ` +[0-9]+ +[0-9]+ +0 +[0-9]+` // none lost
)

func TestNothingIsLostToAnyFault(t *testing.T) {
	out := &screen{}
	o := testOptions(t, out)
	o.Faults = len(inTurn)
	result, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if result.Faults != len(inTurn) || result.Lost != 0 || result.Foreign != 0 || result.Sent == 0 || result.Delivered < 3*result.Sent {
		t.Errorf("got %+v", result)
	}
	wantLines(t, out.String(),
		` +0:\d\d  emitter leader stopped: emitter-\d`+took+took+` +-`+counts,
		` +0:\d\d  registration deleted: \w+`+took+took+` +-`+counts,
		` +0:\d\d  emitter leader killed: emitter-\d`+took+took+` +-`+counts,
		` +\d:\d\d  NATS node killed: n[23]`+took+took+took+counts,
		` +\d:\d\d  NATS node stopped: n[23]`+took+took+took+counts,
		` emitter leader killed +1`+took+took+took+took+` +- +-`,
		` NATS node stopped +1`+strings.Repeat(took, 6),
		` greenhouse_tycoon`+counts+` +[0-9]+`,
		`  nats -s nats://127\.0\.0\.1:\d+ sub 'exesdb\.proxy\.status\.>'`,
	)
	wantNothingLeft(t, &o)
}

func TestComparisonSuffersTheSameFaults(t *testing.T) {
	out := &screen{}
	o := testOptions(t, out)
	o.Compare, o.Faults = true, 2
	result, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if result.Faults != 2 || result.Lost != 0 || result.Foreign != 0 {
		t.Errorf("got %+v", result)
	}
	wantLines(t, out.String(),
		` +0:\d\d  emitter leader stopped: emitter-\d`+strings.Repeat(took, 4)+` +-`+counts,
		` +0:\d\d  registration deleted: \w+`+strings.Repeat(took, 4)+` +-`+counts,
		` greenhouse_tycoon`+counts+` +[0-9]+`,
		` greenhouse_by_timer \(timer\)`+counts+` +[0-9]+`,
	)
	wantNothingLeft(t, &o)
}

func TestInterruptedDemoEndsWithItsSummary(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &screen{seen: func(all string) {
		if strings.Contains(all, "deleted: ") { // and an emitter is about to be killed
			cancel()
		}
	}}
	o := testOptions(t, out)
	o.Duration = time.Hour
	result, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if result.Lost != 0 || result.Faults == 0 {
		t.Errorf("got %+v", result)
	}
	wantLines(t, out.String(), ` greenhouse_tycoon`+counts+` +[0-9]+`)
	wantNothingLeft(t, &o)
}

func TestInterruptedStartLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &screen{seen: func(string) { cancel() }}
	o := testOptions(t, out)
	if _, err := Run(ctx, o); err == nil {
		t.Error("no error")
	}
	wantNothingLeft(t, &o)
}

func TestProcessThatDiesByItselfEndsTheDemo(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("finds processes in /proc")
	}
	out := &screen{}
	o := testOptions(t, out)
	o.Gap = time.Hour
	var once sync.Once
	out.seen = func(all string) {
		if strings.Contains(all, "WHAT BROKE") {
			once.Do(func() {
				if p, err := os.FindProcess(running(t, o.Subproxy)[0]); err == nil {
					_ = p.Kill()
				}
			})
		}
	}
	_, err := Run(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "ended by itself: signal: killed; its log is ") {
		t.Errorf("got %v", err)
	}
	_, dir, _ := strings.Cut(strings.TrimSuffix(out.String(), ".\n"), "The logs of the processes are in ")
	if logs, _ := filepath.Glob(filepath.Join(dir, "*.log")); len(logs) != 4 {
		t.Errorf("%d logs in %s", len(logs), dir)
	}
	_ = os.RemoveAll(dir)
	wantNothingLeft(t, &o)
}

func TestNothingIsLeftOfADemoThatIsKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux kills the children of who is killed")
	}
	subproxy, demo := built(t, "subproxy"), built(t, "subproxy-bench")
	temporary := t.TempDir()
	begun := make(chan struct{})
	var once sync.Once
	out := &screen{seen: func(all string) {
		if strings.Contains(all, "WHAT BROKE") {
			once.Do(func() { close(begun) })
		}
	}}
	cmd := exec.Command(demo, "demo", "--subproxy", subproxy)
	cmd.Env = append(os.Environ(), "TMPDIR="+temporary)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-begun:
	case err := <-ended:
		t.Fatalf("%v\n%s", err, out)
	case <-time.After(startTimeout):
		t.Errorf("not begun\n%s", out)
	}
	_ = cmd.Process.Kill()
	<-ended
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	left := func() []int { return append(running(t, subproxy), running(t, demo)...) }
	if err := testbed.Until(ctx, func() bool { return len(left()) == 0 }); err != nil {
		t.Errorf("still running: %v", left())
	}
}

func TestConfigurationsAreGood(t *testing.T) {
	for _, held := range [][]subscription{nil, greenhouse()} {
		text := configuration("nats://127.0.0.1:1,nats://127.0.0.1:2", "timer-instance-1", store, true, held)
		c, err := config.Parse("demo.yaml", []byte(text), func(string) (string, bool) { return "", false })
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if got := len(c.Stores[0].Subscriptions); got != len(held) || c.SubscriptionProxy.EnableClusterEventSubscriptions || c.SubscriptionProxy.NormalReregisterInterval != timer {
			t.Errorf("got %+v", c)
		}
	}
}

func TestProgramThatIsNotThereIsAnError(t *testing.T) {
	out := &screen{}
	o := testOptions(t, out)
	o.Subproxy = filepath.Join(t.TempDir(), "absent")
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("got %v", err)
	}
	if _, dir, ok := strings.Cut(strings.TrimSuffix(out.String(), ".\n"), "The logs of the processes are in "); ok {
		_ = os.RemoveAll(dir)
	}
}
