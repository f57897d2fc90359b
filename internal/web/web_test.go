package web

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/service"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/pkg/status"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*Server).internalSendLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.0.func1"))
}

const patience = 30 * time.Second

// subscriptions is how many the built-in example has.
var subscriptions = len(config.Greenhouse().Stores[0].Subscriptions)

// site is an instance of the built-in example with its HTTP server.
type site struct {
	node    *natsnode.Node
	service *service.Service
	url     string
	client  http.Client
}

func serve(t *testing.T, labelLimit int, pprof bool) *site {
	t.Helper()
	n, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Shutdown)
	cfg := config.Greenhouse()
	cfg.NATS.URL = n.URL()
	reg := prometheus.NewRegistry()
	s, err := service.Start(t.Context(), service.Options{Config: cfg, Version: "1.2.3", Metrics: service.NewMetrics(reg)})
	if err != nil {
		t.Fatal(err)
	}
	reg.MustRegister(NewCollector(s, labelLimit))
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := Serve(l, s, reg, pprof, slog.New(slog.DiscardHandler))
	here := &site{node: n, service: s, url: "http://" + server.Addr()}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		here.client.CloseIdleConnections()
		http.DefaultClient.CloseIdleConnections()
		if err := server.Close(ctx); err != nil {
			t.Error(err)
		}
		s.Stop(ctx)
	})
	return here
}

func (s *site) get(t *testing.T, path string) (code int, body string) {
	t.Helper()
	r, err := s.client.Get(s.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(data)
}

// await gets a path until it has that code, and returns what it says then.
func (s *site) await(t *testing.T, path string, want int) string {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		code, body := s.get(t, path)
		if code == want {
			return body
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d %s", path, code, body)
		}
	}
}

func TestReadinessFollowsTheConnection(t *testing.T) {
	s := serve(t, 1000, false)
	if got := s.await(t, "/readyz", http.StatusOK); got != "ready\n" {
		t.Errorf("ready: %q", got)
	}
	s.node.Stop()
	if got := s.await(t, "/readyz", http.StatusServiceUnavailable); got != "not connected to NATS\n" {
		t.Errorf("not ready: %q", got)
	}
	if code, got := s.get(t, "/healthz"); code != http.StatusOK || got != "ok\n" {
		t.Errorf("alive: %d %q", code, got)
	}
	if err := s.node.Restart(); err != nil {
		t.Fatal(err)
	}
	s.await(t, "/readyz", http.StatusOK)
}

func TestStatusIsJSON(t *testing.T) {
	s := serve(t, 1000, false)
	s.await(t, "/readyz", http.StatusOK)
	var st Status
	for deadline := time.Now().Add(patience); ; {
		_, body := s.get(t, "/api/v1/status")
		if err := json.Unmarshal([]byte(body), &st); err != nil {
			t.Fatalf("%v in %s", err, body)
		}
		if len(st.Stores) == 1 && st.Stores[0].Verified == subscriptions {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("never all verified: %s", body)
		}
		st = Status{}
	}
	if st.Type != statusType || st.ID == "" || st.Timestamp.IsZero() || !st.Connected || !st.Ready || st.Instance.ID != s.service.Owner().ID || st.Instance.Version != "1.2.3" {
		t.Errorf("got %+v", st)
	}
	if len(st.Proxies) != subscriptions || slices.ContainsFunc(st.Proxies, func(p status.Status) bool { return p.Store != "greenhouse_tycoon" || p.Health != "healthy" }) {
		t.Errorf("proxies %+v", st.Proxies)
	}
	for query, want := range map[string]int{"?store=greenhouse_tycoon": subscriptions, "?store=greenhouse_tycoon&name=audit": 1, "?store=none": 0, "?store=greenhouse_tycoon&name=none": 0} {
		var st Status
		_, body := s.get(t, "/api/v1/status"+query)
		if err := json.Unmarshal([]byte(body), &st); err != nil || len(st.Proxies) != want || strings.Contains(body, `"proxies":null`) {
			t.Errorf("%s: %d proxies, %v", query, len(st.Proxies), err)
		}
	}
}

func TestOnlyWhatIsThereIsServed(t *testing.T) {
	s := serve(t, 1000, false)
	for path, want := range map[string]int{"/": 404, "/debug/pprof/": 404, "/metrics": 200, "/healthz": 200} {
		if code, _ := s.get(t, path); code != want {
			t.Errorf("%s: %d", path, code)
		}
	}
	r, err := s.client.Post(s.url+"/api/v1/status", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", r.StatusCode)
	}
	if code, _ := serve(t, 1000, true).get(t, "/debug/pprof/"); code != http.StatusOK {
		t.Errorf("pprof: %d", code)
	}
}

func TestSubscriptionsHaveMetricsOfTheirOwnUpToTheLimit(t *testing.T) {
	for limit, want := range map[int]bool{subscriptions: true, subscriptions - 1: false} {
		s := serve(t, limit, false)
		s.await(t, "/readyz", http.StatusOK)
		_, metrics := s.get(t, "/metrics")
		for _, name := range []string{"subproxy_subscription_health{", "subproxy_subscription_consecutive_failures{", "subproxy_subscription_latency_seconds{"} {
			if strings.Contains(metrics, name) != want {
				t.Errorf("limit %d: %s is there: %v", limit, name, !want)
			}
		}
		for _, line := range []string{
			"subproxy_nats_connected 1", "subproxy_superseded 0", `subproxy_breakers{state="open",store="greenhouse_tycoon"} 0`,
			`subproxy_proxies{health="failed",store="greenhouse_tycoon"} 0`,
			fmt.Sprintf(`subproxy_registration_attempts_total{cause="initial",outcome="registered"} %d`, subscriptions), "subproxy_feed_gaps_total 0",
		} {
			if !strings.Contains(metrics, line+"\n") {
				t.Errorf("limit %d: no %s in\n%s", limit, line, metrics)
			}
		}
	}
}

// descs are the names that are registered, whether they have a value yet or not.
type descs map[string]bool

func (d descs) Register(c prometheus.Collector) error {
	ch := make(chan *prometheus.Desc, 100)
	c.Describe(ch)
	close(ch)
	for desc := range ch {
		d[regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(desc.String())[1]] = true
	}
	return nil
}

func (d descs) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		_ = d.Register(c)
	}
}

func (d descs) Unregister(prometheus.Collector) bool { return false }

func TestMetricsAreThoseOfTheDocumentation(t *testing.T) {
	page, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| `subproxy_") {
			continue
		}
		names := regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(strings.Split(line, "|")[1], -1)
		for _, name := range names {
			full := name[1]
			if full[0] == '_' { // goes on from the first name of the line
				full = strings.Join(strings.SplitN(names[0][1], "_", 3)[:2], "_") + full
			}
			documented[full] = true
		}
	}
	there := descs{}
	service.NewMetrics(there)
	there.MustRegister(NewCollector(nil, 0))
	emitter.NewMetrics(there)
	for name := range there {
		if !documented[name] {
			t.Errorf("%s is not documented", name)
		}
	}
	for name := range documented {
		if !there[name] {
			t.Errorf("%s is documented and is not there", name)
		}
	}
	if len(documented) < 20 {
		t.Errorf("%d documented", len(documented))
	}
}

func TestAddressInUseNamesTheSetting(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(l.Addr().String()); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("http.addr (--http) %s", l.Addr())) {
		t.Errorf("got %v", err)
	}
}
