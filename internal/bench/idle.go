package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/backoff"
)

// IdleOptions say what Idle measures.
type IdleOptions struct {
	Subscriptions int
	Subproxy      string // the program; default: testbed.Subproxy
	Progress      io.Writer
}

// idleSettle is how long an instance is left alone before it is measured: what its start left behind is
// collected by then, and its memory given back to the system.
const idleSettle = 10 * time.Second

// Idle measures what an instance with idle subscriptions takes more than one with a single one: resident
// memory and goroutines of a real `subproxy run` process, with the server in another one.
func Idle(ctx context.Context, o IdleOptions) (*Report, error) {
	program, err := testbed.Subproxy(o.Subproxy)
	if err != nil {
		return nil, err
	}
	server, err := testbed.StartServer(ctx, testbed.ServerOptions{Name: "bench", Stderr: os.Stderr})
	if err != nil {
		return nil, err
	}
	defer server.Shutdown()
	r := &Report{Bench: "idle", Setup: fmt.Sprintf("subproxy and nats-server as two processes, %d CPU(s), %s", runtime.NumCPU(), runtime.Version())}
	few, err := idleInstance(ctx, program, server.URL(), 1, o.Progress)
	if err != nil {
		return nil, err
	}
	many, err := idleInstance(ctx, program, server.URL(), o.Subscriptions, o.Progress)
	if err != nil {
		return nil, err
	}
	const mib = 1 << 20
	r.number("resident memory, 1 subscription", few.memory/mib, "MiB")
	r.number(fmt.Sprintf("resident memory, %d subscriptions", o.Subscriptions), many.memory/mib, "MiB")
	r.number("goroutines, 1 subscription", few.goroutines, "")
	r.number(fmt.Sprintf("goroutines, %d subscriptions", o.Subscriptions), many.goroutines, "")
	r.number(fmt.Sprintf("CPU, %d subscriptions", o.Subscriptions), 100*many.cpu, "% of one core")
	r.target("resident memory a subscription", (many.memory-few.memory)/float64(max(o.Subscriptions-1, 1))/1024, 2, "KiB")
	r.target("goroutines more", many.goroutines-few.goroutines, 8, "")
	return r, nil
}

// usage is what an idle instance takes.
type usage struct{ memory, goroutines, cpu float64 }

func idleInstance(ctx context.Context, program, url string, n int, progress io.Writer) (u usage, err error) {
	fmt.Fprintf(progress, "measuring an instance with %d subscriptions…\n", n)
	dir, err := os.MkdirTemp("", "subproxy-bench-")
	if err != nil {
		return u, err
	}
	defer os.RemoveAll(dir)
	p := &testbed.Program{File: program, Dir: dir, Name: "subproxy", Command: "run", Args: []string{"--http", "127.0.0.1:0"}, Ready: testbed.ServesHTTP}
	if err := p.Configure(idleConfig(url, n)); err != nil {
		return u, err
	}
	defer func() { _ = p.Stop() }()
	if err := p.Start(ctx); err != nil {
		return u, err
	}
	addr, _ := p.Log.Entries(testbed.ServesHTTP)[0]["addr"].(string)
	for {
		metrics, err := scrape(ctx, addr)
		if err != nil {
			return u, err
		}
		if metrics[`subproxy_verified{store="`+store+`"}`] == float64(n) {
			break
		}
		if err := backoff.Sleep(ctx, 200*time.Millisecond); err != nil {
			return u, err
		}
	}
	if err := backoff.Sleep(ctx, idleSettle); err != nil {
		return u, err
	}
	before, err := scrape(ctx, addr)
	if err != nil {
		return u, err
	}
	if err := backoff.Sleep(ctx, idleSettle); err != nil {
		return u, err
	}
	after, err := scrape(ctx, addr)
	const cpu = "process_cpu_seconds_total"
	return usage{
		memory: after["process_resident_memory_bytes"], goroutines: after["go_goroutines"],
		cpu: (after[cpu] - before[cpu]) / idleSettle.Seconds(),
	}, err
}

func idleConfig(url string, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "nats: {url: %q}\ninstance: {name: bench-idle}\nmetrics: {subscription_label_limit: 0}\n", url)
	b.WriteString("subscription_proxy: {initial_reregister_interval: 1h, normal_reregister_interval: 24h}\n")
	fmt.Fprintf(&b, "stores:\n  - id: %s\n    defaults: {type: by_event_type, selector: 'greenhouse_initialized:v1'}\n    subscriptions:\n", store)
	for _, s := range benchSubscriptions(n) {
		fmt.Fprintf(&b, "      - name: %s\n", s.Name)
	}
	return b.String()
}

func scrape(ctx context.Context, addr string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	metrics := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok && !strings.HasPrefix(name, "#") {
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				metrics[name] = v
			}
		}
	}
	return metrics, lines.Err()
}
