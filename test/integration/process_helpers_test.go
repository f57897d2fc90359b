//go:build unix

package integration

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/status"
)

// processRun is a program that runs. It is killed at the end of its test whatever happens, and with the test's process.
type processRun struct {
	t testing.TB
	*testbed.Process
}

func processStart(t testing.TB, name, program string, args ...string) *processRun {
	t.Helper()
	p, err := testbed.Run(testbed.Command{Name: name, File: program, Args: args, Env: processEnv(t)})
	if err != nil {
		t.Fatal(err)
	}
	r := &processRun{t: t, Process: p}
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			t.Logf("%s (pid %d) said:\n%s", r.Name, r.PID(), r.Log.Tail(6000))
		}
	})
	return r
}

// processEnv leaves out what would change how the programs behave: SUBPROXY_… and the user's nats contexts.
func processEnv(t testing.TB) []string {
	home := t.TempDir()
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_CONFIG_HOME=" + home, "TMPDIR=" + os.TempDir()}
}

func (r *processRun) signal(sig syscall.Signal) {
	r.t.Helper()
	if r.hasEnded() {
		r.t.Fatalf("signal %s to %s: it has ended: %s", sig, r.Name, r.Outcome())
	}
	if err := r.Signal(sig); err != nil {
		r.t.Fatal(err)
	}
}

// kill ends the process, a stopped one too, and waits for its end. It can be called again.
func (r *processRun) kill() {
	if err := r.Kill(); err != nil {
		r.t.Error(err)
	}
}

// exit waits for the process to end by itself and returns its exit status.
func (r *processRun) exit() int {
	r.t.Helper()
	select {
	case <-r.Gone():
	case <-time.After(patience):
		r.t.Fatalf("%s did not end", r.Name)
	}
	return r.Outcome().ExitCode()
}

func (r *processRun) hasEnded() bool { return !r.Running() }

// processNode is a nats-server process with JetStream. Its ports are its own for good, so that it can come back.
type processNode struct {
	t           testing.TB
	program     string
	name        string
	dir         string
	port, route int
	routes      string // empty: not clustered
	flags       []string
	configs     string // the directory with its configuration, NAME.conf; empty: it has none
	*processRun        // the run of now
}

// processNodes starts that many servers, routed to each other, and returns when JetStream answers on each. They get more
// flags as given.
func processNodes(t testing.TB, p *processPrograms, n int, flags ...string) []*processNode {
	t.Helper()
	return processConfiguredNodes(t, p, n, "", flags...)
}

func processConfiguredNodes(t testing.TB, p *processPrograms, n int, configs string, flags ...string) []*processNode {
	t.Helper()
	const tries = 5 // another process may take a port between its choice and its use
	for range tries {
		nodes := make([]*processNode, n)
		var routes []string
		for i := range nodes {
			nodes[i] = &processNode{t: t, program: p.natsServer, name: fmt.Sprintf("n%d", i+1), dir: t.TempDir(), port: processPort(t), route: processPort(t), flags: flags, configs: configs}
			routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", nodes[i].route))
		}
		for _, node := range nodes {
			if n > 1 {
				node.routes = strings.Join(routes, ",")
			}
			node.run()
		}
		if processAllAnswer(t, nodes) {
			return nodes
		}
		for _, node := range nodes {
			node.kill()
		}
	}
	t.Fatal("the nats-servers did not start")
	return nil
}

// processPort chooses a free port below those that systems give to whoever asks for any.
func processPort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 12000 + rand.IntN(20000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// run starts the server, for the first time or again.
func (n *processNode) run() {
	n.t.Helper()
	args := []string{"--name", n.name, "--addr", "127.0.0.1", "--port", fmt.Sprint(n.port), "--jetstream", "--store_dir", n.dir}
	if n.routes != "" {
		args = append(args, "--cluster_name", "subproxy", "--cluster", fmt.Sprintf("nats://127.0.0.1:%d", n.route), "--routes", n.routes)
	}
	if n.configs != "" {
		args = append(args, "--config", filepath.Join(n.configs, n.name+".conf"))
	}
	n.processRun = processStart(n.t, "nats-server "+n.name, n.program, append(args, n.flags...)...)
}

func (n *processNode) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", n.port) }

// processAllAnswer waits until JetStream answers on each server; false where one has ended instead.
func processAllAnswer(t testing.TB, nodes []*processNode) bool {
	t.Helper()
	for _, node := range nodes {
		for deadline := time.Now().Add(patience); !node.answers(); {
			if node.hasEnded() || time.Now().After(deadline) {
				return false
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return true
}

func (n *processNode) answers() bool {
	nc, err := nats.Connect(n.url())
	if err != nil {
		return false
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err = js.AccountInfo(ctx)
	return err == nil
}

const processStore = "greenhouse"

// processConfig is the text of a configuration in which nothing happens by a timer, with these subscriptions.
func processConfig(url string, replicas int, subscriptions ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `nats: {url: "%s"}
instance: {name: proxy-a}
registry: {replicas: %d}
subscription_proxy: {initial_reregister_interval: 1h, normal_reregister_interval: 24h}
status: {summary_interval: 100ms, emitter_silent_after: 0s}
http: {addr: "127.0.0.1:0"}
stores:
  - id: %s
    subscriptions:
`, url, replicas, processStore)
	for _, s := range subscriptions {
		b.WriteString("      - " + s + "\n")
	}
	return b.String()
}

// processMany are n subscriptions, and their keys.
func processMany(n int) (subscriptions, keys []string) {
	for i := range n {
		subscriptions = append(subscriptions, fmt.Sprintf("{name: reader-%d, type: by_stream, selector: plant-%d}", i, i))
		keys = append(keys, fmt.Sprintf("%s.by_stream.plant-%d.reader-%d", processStore, i, i))
	}
	return subscriptions, keys
}

func processFile(t testing.TB, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "subproxy.yaml")
	processWrite(t, path, text)
	return path
}

func processWrite(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// processProxy is a subproxy process.
type processProxy struct {
	*processRun
	id   string // of the instance
	http string // address
}

// processServe runs the service and returns when it serves.
func processServe(t testing.TB, p *processPrograms, config string) *processProxy {
	t.Helper()
	r := &processProxy{processRun: processStart(t, "subproxy", p.subproxy, "run", "--config", config)}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if lines := r.Log.Entries("serving HTTP"); len(lines) > 0 {
			r.http = lines[0]["addr"].(string)
			r.id = r.Log.Entries("connected to NATS")[0]["id"].(string)
			return r
		}
		if r.hasEnded() || time.Now().After(deadline) {
			t.Fatal("subproxy does not serve")
		}
	}
}

// get asks over HTTP.
func (p *processProxy) get(path string) (code int, body string) {
	p.t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
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

// processStatuses asks an instance for its statuses over NATS; false where it does not answer completely.
func processStatuses(w *world, id string) (instance control.Instance, statuses []status.Status, ok bool) {
	w.Helper()
	sub, err := w.nc.SubscribeSync(w.nc.NewInbox())
	if err != nil {
		return instance, nil, false
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := w.nc.PublishRequest("exesdb.proxy.control.status", sub.Subject, nil); err != nil {
		return instance, nil, false
	}
	for parts := 0; ; {
		m, err := sub.NextMsg(2 * time.Second)
		if err != nil || m.Header.Get("Status") == "503" {
			return instance, nil, false
		}
		a := decode[control.StatusAnswer](w, m.Data)
		if a.Instance.ID != id {
			continue
		}
		instance, statuses = a.Instance, append(statuses, a.Proxies...)
		if parts++; parts == a.Parts {
			return instance, statuses, true
		}
	}
}

// processAwait waits until the instance has n proxies and each is healthy, verified, and as wanted.
func processAwait(w *world, p *processProxy, n int, what string, as func(status.Status) bool) (statuses []status.Status) {
	w.Helper()
	defer func() {
		if w.Failed() && len(statuses) > 0 {
			w.Logf("%d statuses, the first: %+v", len(statuses), statuses[0])
		}
	}()
	w.eventually(fmt.Sprintf("%d proxies healthy, verified and %s", n, what), func() bool {
		if p.hasEnded() {
			w.Fatalf("subproxy ended: %s", p.Outcome())
		}
		var ok bool
		if _, statuses, ok = processStatuses(w, p.id); !ok || len(statuses) != n {
			return false
		}
		for _, s := range statuses {
			if s.Health != "healthy" || !s.Verified || !s.Registered || s.Owner.ID != p.id || !as(s) {
				return false
			}
		}
		return true
	})
	return statuses
}

func processAnyStatus(status.Status) bool { return true }

func processSince(revision uint64, cause string) func(status.Status) bool {
	return func(s status.Status) bool { return s.Revision > revision && string(s.LastCause) == cause }
}

// processVerifiedAt is when the last of them was verified.
func processVerifiedAt(statuses []status.Status) (at time.Time) {
	for _, s := range statuses {
		if s.LastSuccess != nil && s.LastSuccess.After(at) {
			at = *s.LastSuccess
		}
	}
	return at
}

// processRecords waits until the bucket holds a record as wanted under each key, and returns them. Reads are answered by
// any replica, so that one that lags is read again.
func processRecords(w *world, keys []string, what string, as func(record) bool) map[string]record {
	w.Helper()
	found := map[string]record{}
	for _, key := range keys {
		found[key] = w.await(key, what, as)
	}
	return found
}

// processLast is the bucket's last revision.
func processLast(w *world) uint64 {
	w.Helper()
	return processStream(w).State.LastSeq
}

// processStream is what JetStream says about the bucket's stream, once it says something.
func processStream(w *world) (info *jetstream.StreamInfo) {
	w.Helper()
	w.eventually("information about the bucket's stream", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		stream, err := w.js.Stream(ctx, bucketStream)
		if err == nil {
			info = stream.CachedInfo()
		}
		return err == nil
	})
	return info
}
