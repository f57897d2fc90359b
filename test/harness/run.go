//go:build unix

package harness

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/exesdb/subproxy/internal/testbed"
)

// Outcome is how a command ended.
type Outcome struct {
	Code           int
	Stdout, Stderr string
}

// Command runs a command to its end.
func Command(t testing.TB, program string, args ...string) Outcome {
	t.Helper()
	var out testbed.Log
	p, err := testbed.Run(testbed.Command{Name: program, File: program, Args: args, Env: Env(t), Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Gone()
	return Outcome{p.Outcome().ExitCode(), out.String(), p.Log.String()}
}

// Run is a program that runs. It is killed at the end of its test whatever happens, and with the test's
// process.
type Run struct {
	t testing.TB
	*testbed.Process
}

// Start runs a program.
func Start(t testing.TB, name, program string, args ...string) *Run {
	t.Helper()
	p, err := testbed.Run(testbed.Command{Name: name, File: program, Args: args, Env: Env(t)})
	if err != nil {
		t.Fatal(err)
	}
	r := &Run{t: t, Process: p}
	t.Cleanup(func() {
		r.MustKill()
		if t.Failed() {
			t.Logf("%s (pid %d) said:\n%s", r.Name, r.PID(), r.Log.Tail(6000))
		}
	})
	return r
}

// Env leaves out what would change how the programs behave: SUBPROXY_… and the user's nats contexts.
func Env(t testing.TB) []string {
	home := t.TempDir()
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_CONFIG_HOME=" + home, "TMPDIR=" + os.TempDir()}
}

// MustSignal signals a process that has to run.
func (r *Run) MustSignal(sig syscall.Signal) {
	r.t.Helper()
	if r.HasEnded() {
		r.t.Fatalf("signal %s to %s: it has ended: %s", sig, r.Name, r.Outcome())
	}
	if err := r.Signal(sig); err != nil {
		r.t.Fatal(err)
	}
}

// MustKill ends the process, a stopped one too, and waits for its end. It can be called again.
func (r *Run) MustKill() {
	if err := r.Kill(); err != nil {
		r.t.Error(err)
	}
}

// Exit waits for the process to end by itself and returns its exit status.
func (r *Run) Exit() int {
	r.t.Helper()
	select {
	case <-r.Gone():
	case <-time.After(Patience):
		r.t.Fatalf("%s did not end", r.Name)
	}
	return r.Outcome().ExitCode()
}

// HasEnded reports whether the process is gone.
func (r *Run) HasEnded() bool { return !r.Running() }

// ConfigFile is a configuration file with that text.
func ConfigFile(t testing.TB, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "subproxy.yaml")
	WriteFile(t, path, text)
	return path
}

// WriteFile writes a file that nobody else may read.
func WriteFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Instance is a subproxy process.
type Instance struct {
	*Run
	ID   string // of the instance
	http string // address
}

// Serve runs the service and returns when it serves.
func Serve(t testing.TB, subproxy string, config string) *Instance {
	t.Helper()
	r := &Instance{Run: Start(t, "subproxy", subproxy, "run", "--config", config)}
	for deadline := time.Now().Add(Patience); ; time.Sleep(5 * time.Millisecond) {
		if lines := r.Log.Entries("serving HTTP"); len(lines) > 0 {
			r.http = lines[0]["addr"].(string)
			r.ID = r.Log.Entries("connected to NATS")[0]["id"].(string)
			return r
		}
		if r.HasEnded() || time.Now().After(deadline) {
			t.Fatal("subproxy does not serve")
		}
	}
}

// Get asks over HTTP.
func (p *Instance) Get(path string) (code int, body string) {
	p.t.Helper()
	client := http.Client{Timeout: Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + p.http + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return response.StatusCode, string(data)
}
