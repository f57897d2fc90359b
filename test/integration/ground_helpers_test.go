package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/service"
	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/test/harness"
)

const (
	groundStore  = "s"
	groundStream = "EXESDB_s"
)

// ground is what most users have: a server, a store s in a stream, and one instance that hosts the store's
// emitter.
type ground struct {
	*world
	config   *config.Config
	log      *locked              // of instance and emitter, over all their runs
	metrics  *prometheus.Registry // of the present run
	instance *service.Service     // nil while it is stopped
	emitter  *service.Emitter
}

// allEvents is a subscription to every event of the store, from the first on, with the default sink.
func allEvents(name string) config.Subscription {
	return config.Subscription{Name: name, Type: "by_stream", Selector: "$all"}
}

// groundServers is how many servers hold everything: go test -run … ./test/integration -ground.servers=3
var groundServers = flag.Int("ground.servers", 1, "servers, and replicas of all streams, of the tests of what users' streams do: 1 or 3")

// newGround starts a server. Without subscriptions the store has the one that is called all. Nothing runs
// yet.
func newGround(t testing.TB, configure func(*server.Options), subscriptions ...config.Subscription) *ground {
	t.Helper()
	if configure == nil {
		configure = func(*server.Options) {}
	}
	if *groundServers == 1 {
		return groundOn(newWorld(t, configure), subscriptions...)
	}
	cluster, err := testbed.StartNodes(t.Context(), *groundServers, natsnode.Options{Configure: configure})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Shutdown)
	w := attach(t, cluster.URLs())
	w.node = cluster.Servers[0]
	g := groundOn(w, subscriptions...)
	g.config.Registry.Replicas, g.config.Stores[0].Stream.Replicas = *groundServers, *groundServers
	return g
}

// groundOn is for servers that the test has started itself.
func groundOn(w *world, subscriptions ...config.Subscription) *ground {
	if len(subscriptions) == 0 {
		subscriptions = []config.Subscription{allEvents("all")}
	}
	c := config.Default()
	c.NATS.URL, c.Instance.Name = w.URL, strings.ReplaceAll(w.Name(), "/", "-")
	c.Stores = []config.Store{store(groundStore, subscriptions...)}
	c.Emitter.Enabled = true
	g := &ground{world: w, config: c, log: &locked{}}
	w.Cleanup(func() {
		g.stop()
		if w.Failed() {
			w.Logf("log:\n%s", g.log.tail(12000))
		}
	})
	return g
}

// tryStart starts the instance and its emitter, as subproxy run does with emitter.enabled.
func (g *ground) tryStart() error {
	log := slog.New(slog.NewTextHandler(g.log, nil))
	g.metrics = prometheus.NewRegistry()
	instance, err := service.Start(context.Background(), service.Options{
		Config: g.config, Version: "0.0.0", StartTimeout: 20 * time.Second, Metrics: service.NewMetrics(g.metrics), Logger: log,
	})
	if err != nil {
		return err
	}
	g.instance = instance
	if !g.config.Emitter.Enabled {
		return nil
	}
	g.emitter, err = service.StartEmitter(context.Background(), service.EmitterOptions{
		Config: g.config, Logger: log, Metrics: emitter.NewMetrics(g.metrics), Beside: instance, StartTimeout: 20 * time.Second,
	})
	if err != nil {
		g.stop()
	}
	return err
}

func (g *ground) start() {
	g.Helper()
	if err := g.tryStart(); err != nil {
		g.Fatal(err)
	}
}

// stop stops both gracefully; again is fine.
func (g *ground) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	if g.instance != nil {
		g.instance.Stop(ctx)
		g.instance = nil
	}
	if g.emitter != nil {
		if err := g.emitter.Stop(ctx); err != nil {
			g.Errorf("stop the emitter: %v", err)
		}
		g.emitter = nil
	}
}

// cloned is a configuration whose stores, subscriptions and forwards can be changed.
func cloned(c *config.Config) *config.Config {
	to := *c
	to.Stores = slices.Clone(c.Stores)
	for i := range to.Stores {
		to.Stores[i].Subscriptions = slices.Clone(to.Stores[i].Subscriptions)
		for j := range to.Stores[i].Subscriptions {
			if f := to.Stores[i].Subscriptions[j].Forward; f != nil {
				forward := *f
				to.Stores[i].Subscriptions[j].Forward = &forward
			}
		}
	}
	return &to
}

// reload is what SIGHUP does.
func (g *ground) reload(change func(*config.Config)) {
	g.Helper()
	g.config = cloned(g.config) // the instance reads the one that it has
	change(g.config)
	if err := g.instance.Reload(g.config); err != nil {
		g.Fatal(err)
	}
}

// reconfigure changes the configuration while nothing runs.
func (g *ground) reconfigure(change func(*config.Config)) { change(g.config) }

// append appends that many events to stream id o-1, of type created, whose data are {"n":<number>}, from
// number from on.
func (g *ground) append(from, n int) {
	g.Helper()
	event := func(i int) *nats.Msg {
		return &nats.Msg{Subject: "exesdb.events.s.o-1.created", Data: fmt.Appendf(nil, `{"n":%d}`, from+i)}
	}
	g.appendMessage(event(0))
	var futures []jetstream.PubAckFuture
	for i := range n - 1 {
		future, err := g.JS.PublishMsgAsync(event(1 + i))
		if err != nil {
			g.Fatal(err)
		}
		futures = append(futures, future)
	}
	timeout := time.After(harness.Patience)
	for _, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			g.Fatal(err)
		case <-timeout:
			g.Fatalf("%d events from %d on: one is neither stored nor refused within %s", n, from, harness.Patience)
		}
	}
}

// appendMessage stores one message, and sends it again under the same id until it is acknowledged. In a
// cluster, a server that has not heard yet where a new or restored stream is led passes a message on to
// those who listen, such as the world, and to no stream.
func (g *ground) appendMessage(m *nats.Msg) *jetstream.PubAck {
	g.Helper()
	if m.Header.Get(jetstream.MsgIDHeader) == "" {
		m = &nats.Msg{Subject: m.Subject, Header: maps.Clone(m.Header), Data: m.Data}
		if m.Header == nil {
			m.Header = nats.Header{}
		}
		m.Header.Set(jetstream.MsgIDHeader, nuid.Next())
	}
	for deadline := time.Now().Add(harness.Patience); ; {
		ctx, cancel := context.WithTimeout(g.Context(), 2*time.Second)
		ack, err := g.JS.PublishMsg(ctx, m)
		cancel()
		if err == nil {
			return ack
		}
		if _, refused := errors.AsType[*jetstream.APIError](err); refused || time.Now().After(deadline) {
			g.Fatalf("store on %s: %v", m.Subject, err)
		}
	}
}

// delivered are the messages that the default sink of a subscription has published so far.
func (g *ground) delivered(name string) []*nats.Msg {
	g.Helper()
	return g.Heard("exesdb.delivered.s." + name)
}

// numbers are the n of the messages' data, in the order in which they came.
func (g *ground) numbers(messages []*nats.Msg) (numbers []int) {
	g.Helper()
	for _, m := range messages {
		numbers = append(numbers, harness.Decode[struct{ N int }](g, m.Data).N)
	}
	return numbers
}

// awaitDelivered waits until a subscription has exactly the events 1 to n, each once and in order.
func (g *ground) awaitDelivered(name string, n int) {
	g.Helper()
	var got []int
	defer func() {
		if g.Failed() {
			g.Logf("%s got %d events, of which the last are %v", name, len(got), got[max(0, len(got)-20):])
		}
	}()
	g.Eventually(fmt.Sprintf("%s has its %d events", name, n), func() bool {
		got = g.numbers(g.delivered(name))
		return len(got) >= n
	})
	for i, number := range got {
		if number != i+1 || len(got) != n {
			g.Fatalf("%s got %d events, number %d at place %d; wanted 1 to %d, each once and in order", name, len(got), number, i+1, n)
		}
	}
}

// checkpoint is the sequence in the bucket of checkpoints; 0 where there is none.
func (g *ground) checkpoint(key string) uint64 {
	kv, err := g.JS.KeyValue(g.Context(), "exesdb_checkpoints")
	if err != nil {
		return 0
	}
	entry, err := kv.Get(g.Context(), key)
	if err != nil {
		return 0
	}
	var point struct {
		Sequence uint64 `json:"seq"`
	}
	if err := json.Unmarshal(entry.Value(), &point); err != nil {
		g.Errorf("checkpoint %s: %v", key, err)
	}
	return point.Sequence
}

// metric sums the series of a counter or gauge that have all the labels, each given as name=value. The
// prefix subproxy_ is left out.
func (g *ground) metric(name string, labels ...string) (sum float64) {
	g.Helper()
	families, err := g.metrics.Gather()
	if err != nil {
		g.Fatal(err)
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
				sum += metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// logged counts the lines of the log that contain the text.
func (g *ground) logged(text string) (n int) {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	for line := range bytes.Lines(g.log.b.Bytes()) {
		if bytes.Contains(line, []byte(text)) {
			n++
		}
	}
	return n
}

// editStream changes the configuration of a stream, as nats stream edit does.
func (g *ground) editStream(name string, change func(*jetstream.StreamConfig)) {
	g.Helper()
	stream, err := g.JS.Stream(g.Context(), name)
	if err != nil {
		g.Fatal(err)
	}
	c := stream.CachedInfo().Config
	change(&c)
	if _, err := g.JS.UpdateStream(g.Context(), c); err != nil {
		g.Fatal(err)
	}
}

func TestSecondSubscriptionHasWhatWasStoredBefore(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil)
	g.start()
	g.append(1, 1500)
	g.awaitDelivered("all", 1500)
	g.reload(func(c *config.Config) {
		c.Stores[0].Subscriptions = append(c.Stores[0].Subscriptions, allEvents("second"))
	})
	g.awaitDelivered("second", 1500)
}
