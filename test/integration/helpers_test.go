// Package integration holds subproxy to its contract from outside: real nats-servers, the real service, and
// a plain NATS client that reads the bucket, hears what is published and asks over the control subjects.
package integration

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/service"
	"github.com/exesdb/subproxy/test/harness"
)

// world is a World in which instances run in this process.
type world struct {
	*harness.World
	node *natsnode.Node // nil in a cluster
}

func newWorld(t testing.TB, configure ...func(*server.Options)) *world {
	t.Helper()
	o := natsnode.Options{StoreDir: t.TempDir()}
	if len(configure) > 0 {
		o.Configure = configure[0]
	}
	node, err := natsnode.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Shutdown)
	return &world{World: harness.Listen(t, node.URL()), node: node}
}

// attach is for servers that the test has started itself.
func attach(t testing.TB, url string, opts ...nats.Option) *world {
	t.Helper()
	return &world{World: harness.Listen(t, url, opts...)}
}

// instance is a running service, with its metrics as a scrape would show them.
type instance struct {
	*service.Service
	metrics *prometheus.Registry
	stop    func()  // gracefully; again is fine
	drop    func()  // without a word to NATS where the connection is cut before
	log     *locked // everything logged
}

func (w *world) start(c *config.Config) *instance {
	w.Helper()
	i, err := tryStart(w, c)
	if err != nil {
		w.Fatal(err)
	}
	return i
}

func tryStart(t testing.TB, c *config.Config) (*instance, error) {
	t.Helper()
	i := &instance{metrics: prometheus.NewRegistry(), log: &locked{}}
	var err error
	i.Service, err = service.Start(context.Background(), service.Options{
		Config: c, Version: "0.0.0", StartTimeout: 20 * time.Second, Metrics: service.NewMetrics(i.metrics),
		Logger: slog.New(slog.NewTextHandler(i.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", c.Instance.Name, i.log.tail(8000))
		}
	})
	if err != nil {
		return nil, err
	}
	var once sync.Once
	end := func(ctx context.Context) { once.Do(func() { i.Stop(ctx) }) }
	i.stop = func() {
		ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
		defer cancel()
		end(ctx)
	}
	i.drop = func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		end(ctx)
	}
	t.Cleanup(i.stop)
	return i, nil
}

// counter sums the counter's series that have all the labels, each given as name=value.
func (i *instance) counter(t testing.TB, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := i.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "subproxy_"+name {
			continue
		}
		for _, metric := range family.GetMetric() {
			has := map[string]bool{}
			for _, label := range metric.GetLabel() {
				has[label.GetName()+"="+label.GetValue()] = true
			}
			all := true
			for _, label := range labels {
				all = all && has[label]
			}
			if all {
				sum += metric.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// locked is a buffer for a log that is written and read at once.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func (l *locked) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.b.Bytes()
	return string(text[max(0, len(text)-n):])
}

// quiet is a configuration whose timers do nothing within a test's time: whatever happens, an event caused
// it.
func quiet(t testing.TB, url string, stores ...config.Store) *config.Config {
	c := config.Default()
	c.NATS.URL, c.Instance.Name, c.Stores = url, t.Name(), stores
	p := &c.SubscriptionProxy
	p.InitialReregisterInterval, p.NormalReregisterInterval = harness.Never, harness.Never
	p.RetryReregisterInterval, p.MaxBackoffInterval = harness.Never, harness.Never
	p.VerificationTimeout = 5 * time.Second // two busy cores
	c.Status.HeartbeatInterval, c.Status.SummaryInterval = harness.Never, harness.Never
	c.Status.EmitterSilentAfter = 0 // most stores here have none
	return c
}

func store(id string, subscriptions ...config.Subscription) config.Store {
	return config.Store{ID: id, Subscriptions: subscriptions}
}

func byType(name, selector string) config.Subscription {
	return config.Subscription{Name: name, Type: "by_event_type", Selector: selector}
}

// many are that many subscriptions of one store.
func many(id string, n int) config.Store {
	s := config.Store{ID: id}
	for i := range n {
		s.Subscriptions = append(s.Subscriptions, byType(fmt.Sprintf("s%05d", i), fmt.Sprintf("type_%d:v1", i)))
	}
	return s
}

// greenhouse is a store of one subscription, with a name and a selector that need no escapes where it
// matters not.
var greenhouse = store("greenhouse", byType("initialized", "greenhouse_initialized:v1"))

const (
	greenhouseKey    = "greenhouse.by_event_type.greenhouse_initialized=3Av1.initialized"
	greenhouseTokens = "greenhouse.initialized"
)

// settled starts an instance and returns it with its first registration of the key, verified.
func (w *world) settled(c *config.Config, key, tokens string) (*instance, harness.Record) {
	w.Helper()
	i := w.start(c)
	r := w.Await(key, "registered first", func(r harness.Record) bool { return r.Owner.ID == i.Owner().ID })
	w.Eventually(tokens+" verified first", func() bool {
		for _, a := range w.Ask("status", "", harness.CompletedBy(i.Owner().ID)) {
			for _, s := range a.Proxies {
				if a.Instance.ID == i.Owner().ID && s.Store == r.Store && s.Name == r.Name && harness.VerifiedAt(r.Revision)(s) {
					return true
				}
			}
		}
		return false
	})
	return i, r
}
