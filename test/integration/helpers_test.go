// Package integration holds subproxy to its contract from outside: real nats-servers, the real service, and a plain NATS
// client that reads the bucket, hears what is published and asks over the control subjects.
package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
)

const (
	bucket       = "exesdb_subscriptions"
	bucketStream = "KV_exesdb_subscriptions"
	changed      = "exesdb.cluster.leader_changed"
	restarted    = "exesdb.emitter.restarted"

	// patience is how long a condition is waited for. Nothing here should take a second; a busy machine may.
	patience = 40 * time.Second
	// never is a timer's interval in a test in which something else has to act first.
	never = 5 * time.Hour
)

// What the outside reads. The types are the contract's, and on purpose not the product's.
type (
	owner struct {
		Name string `json:"name"`
		ID   string `json:"id"`
	}
	record struct {
		Store          string    `json:"store"`
		Type           string    `json:"type"`
		Selector       string    `json:"selector"`
		Name           string    `json:"name"`
		StartVersion   int64     `json:"start_version"`
		Owner          owner     `json:"owner"`
		Incarnation    uint64    `json:"incarnation"`
		DeliverSubject string    `json:"deliver_subject"`
		Term           uint64    `json:"term"`
		Cause          string    `json:"cause"`
		RegisteredAt   time.Time `json:"registered_at"`

		revision uint64
	}
	proxyStatus struct {
		Store        string `json:"store"`
		Name         string `json:"name"`
		Type         string `json:"subscription_type"`
		Selector     string `json:"selector"`
		Health       string `json:"health"`
		Breaker      string `json:"breaker"`
		Registered   bool   `json:"registered"`
		Verified     bool   `json:"verified"`
		Verification string `json:"verification"`
		Failures     int    `json:"consecutive_failures"`
		LastCause    string `json:"last_cause"`
		LastError    string `json:"last_error"`
		Revision     uint64 `json:"revision"`
		Incarnation  uint64 `json:"incarnation"`
		Owner        owner  `json:"owner"`
	}
	alert struct {
		Level         string `json:"level"`
		Scope         string `json:"scope"`
		Store         string `json:"store"`
		Name          string `json:"name"`
		Health        string `json:"health"`
		Affected      int    `json:"affected"`
		Subscriptions int    `json:"subscriptions"`
		LastError     string `json:"last_error"`
	}
	answer struct {
		Type     string `json:"type"`
		Instance struct {
			owner
			Superseded bool `json:"superseded"`
		} `json:"instance"`
		Part     int           `json:"part"`
		Parts    int           `json:"parts"`
		Affected int           `json:"affected"`
		Verified int           `json:"verified"`
		Proxies  []proxyStatus `json:"proxies"`

		code, refusal string
	}
)

// world is NATS, and a client on it that hears everything said below exesdb.> in the order in which it was said.
type world struct {
	testing.TB
	node *natsnode.Node // nil in a cluster
	url  string
	nc   *nats.Conn
	js   jetstream.JetStream

	mu   sync.Mutex
	all  []*nats.Msg
	last map[string]*nats.Msg // by subject
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
	w := attach(t, node.URL())
	w.node = node
	return w
}

func attach(t testing.TB, url string, opts ...nats.Option) *world {
	t.Helper()
	nc, err := nats.Connect(url, append(opts, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, url: url, nc: nc, js: js, last: map[string]*nats.Msg{}}
	sub, err := nc.Subscribe("exesdb.>", w.hear)
	if err == nil {
		err = errors.Join(sub.SetPendingLimits(-1, -1), nc.Flush())
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) hear(m *nats.Msg) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[m.Subject] = m
	w.all = append(w.all, m)
}

// heard is everything heard so far on subjects that begin so.
func (w *world) heard(prefix string) []*nats.Msg {
	w.Helper()
	w.level()
	w.mu.Lock()
	defer w.mu.Unlock()
	var ms []*nats.Msg
	for _, m := range w.all {
		if strings.HasPrefix(m.Subject, prefix) {
			ms = append(ms, m)
		}
	}
	return ms
}

// level returns when everything that the server had to pass on before was heard.
func (w *world) level() {
	w.Helper()
	mark := "exesdb.test.level." + nuid.Next()
	w.publish(mark, "")
	w.eventually("hear a message of its own", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.last[mark] != nil
	})
}

func (w *world) publish(subject, body string) {
	w.Helper()
	if err := w.nc.Publish(subject, []byte(body)); err != nil {
		w.Fatal(err)
	}
}

func (w *world) eventually(what string, ok func() bool) {
	w.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			w.Fatalf("not within %s: %s", patience, what)
		}
		time.Sleep(3 * time.Millisecond)
	}
}

// record is what the bucket holds under the key now.
func (w *world) record(key string) (r record, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	kv, err := w.js.KeyValue(ctx, bucket)
	if err != nil {
		return record{}, false
	}
	entry, err := kv.Get(ctx, key)
	if err != nil || json.Unmarshal(entry.Value(), &r) != nil {
		return record{}, false
	}
	r.revision = entry.Revision()
	return r, true
}

// await returns the record under the key once it is as wanted.
func (w *world) await(key, what string, as func(record) bool) (r record) {
	w.Helper()
	var ok bool
	defer func() {
		if w.Failed() {
			w.Logf("the bucket holds under %s: %t %+v", key, ok, r)
		}
	}()
	w.eventually(key+" "+what, func() bool {
		r, ok = w.record(key)
		return ok && as(r)
	})
	return r
}

func after(revision uint64, cause string) func(record) bool {
	return func(r record) bool { return r.revision > revision && r.Cause == cause }
}

// status is what was said last about a subscription; tokens is <store>.<name>.
func (w *world) status(tokens string) (s proxyStatus, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.last["exesdb.proxy.status."+tokens]; m != nil {
		return decode[proxyStatus](w, m.Data), true
	}
	return proxyStatus{}, false
}

func (w *world) awaitStatus(tokens, what string, as func(proxyStatus) bool) (s proxyStatus) {
	w.Helper()
	defer func() {
		if w.Failed() {
			w.Logf("last status of %s: %+v", tokens, s)
		}
	}()
	w.eventually("status of "+tokens+": "+what, func() bool {
		var ok bool
		s, ok = w.status(tokens)
		return ok && as(s)
	})
	return s
}

func verifiedAt(revision uint64) func(proxyStatus) bool {
	return func(s proxyStatus) bool {
		return s.Verified && s.Registered && s.Revision >= revision && s.Health == "healthy"
	}
}

func (w *world) alerts() (alerts []alert) {
	w.Helper()
	for _, m := range w.heard("exesdb.proxy.alert.") {
		alerts = append(alerts, decode[alert](w, m.Data))
	}
	return alerts
}

// write is one revision of the bucket, as the republished message told it.
type write struct {
	key      string
	revision uint64
	removed  bool
	record   record // zero for what is no record
}

// writes is every revision of the bucket so far.
func (w *world) writes() (all []write) {
	w.Helper()
	for _, m := range w.heard("exesdb.registry.") {
		revision, _ := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
		one := write{key: strings.TrimPrefix(m.Subject, "exesdb.registry."), revision: revision, removed: len(m.Data) == 0}
		if json.Unmarshal(m.Data, &one.record) != nil {
			one.record = record{}
		}
		all = append(all, one)
	}
	return all
}

func decode[T any](t testing.TB, data []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Errorf("not JSON: %v: %s", err, data)
	}
	return v
}

// ask sends a control request and returns the answers that come until enough says so.
func (w *world) ask(verb, body string, enough func([]answer) bool) (answers []answer) {
	w.Helper()
	var sub *nats.Subscription
	request := func() {
		if sub != nil {
			_ = sub.Unsubscribe()
		}
		answers = nil
		inbox := w.nc.NewInbox()
		var err error
		if sub, err = w.nc.SubscribeSync(inbox); err == nil {
			err = w.nc.PublishRequest("exesdb.proxy.control."+verb, inbox, []byte(body))
		}
		if err != nil {
			w.Fatal(err)
		}
	}
	request()
	defer func() { _ = sub.Unsubscribe() }()
	for began := time.Now(); !enough(answers); {
		m, err := sub.NextMsg(patience / 8)
		if errors.Is(err, nats.ErrTimeout) && time.Since(began) < patience {
			if verb == "status" {
				request() // an instance may have been about to reconnect
			}
			continue
		}
		if err != nil {
			w.Fatalf("control %s %s: %v after %d answers", verb, body, err, len(answers))
		}
		if m.Header.Get("Status") == "503" {
			w.Fatalf("control %s: nobody listens", verb)
		}
		a := answer{}
		if a.code = m.Header.Get("Nats-Service-Error-Code"); a.code != "" {
			a.refusal = m.Header.Get("Nats-Service-Error")
			if detail := decode[map[string]string](w, m.Data); detail["error"] == "" {
				w.Errorf("control %s %s: refusal without an error: %s", verb, body, m.Data)
			}
		} else {
			a = decode[answer](w, m.Data)
		}
		answers = append(answers, a)
	}
	return answers
}

func (w *world) askOne(verb, body string) answer {
	w.Helper()
	return w.ask(verb, body, func(a []answer) bool { return len(a) == 1 })[0]
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
		ctx, cancel := context.WithTimeout(context.Background(), patience)
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

// quiet is a configuration whose timers do nothing within a test's time: whatever happens, an event caused it.
func quiet(t testing.TB, url string, stores ...config.Store) *config.Config {
	c := config.Default()
	c.NATS.URL, c.Instance.Name, c.Stores = url, t.Name(), stores
	p := &c.SubscriptionProxy
	p.InitialReregisterInterval, p.NormalReregisterInterval = never, never
	p.RetryReregisterInterval, p.MaxBackoffInterval = never, never
	p.VerificationTimeout = 5 * time.Second // two busy cores
	c.Status.HeartbeatInterval, c.Status.SummaryInterval = never, never
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

// greenhouse is a store of one subscription, with a name and a selector that need no escapes where it matters not.
var greenhouse = store("greenhouse", byType("initialized", "greenhouse_initialized:v1"))

const (
	greenhouseKey    = "greenhouse.by_event_type.greenhouse_initialized=3Av1.initialized"
	greenhouseTokens = "greenhouse.initialized"
)

// settled starts an instance and returns it with its first registration of the key, verified.
func (w *world) settled(c *config.Config, key, tokens string) (*instance, record) {
	w.Helper()
	i := w.start(c)
	r := w.await(key, "registered first", func(r record) bool { return r.Owner.ID == i.Owner().ID })
	w.eventually(tokens+" verified first", func() bool {
		for _, a := range w.ask("status", "", completedBy(i.Owner().ID)) {
			for _, s := range a.Proxies {
				if a.Instance.ID == i.Owner().ID && s.Store == r.Store && s.Name == r.Name && verifiedAt(r.revision)(s) {
					return true
				}
			}
		}
		return false
	})
	return i, r
}

// relay passes connections on to a server until it is cut: what a network does to one instance alone.
type relay struct {
	listener net.Listener
	target   string
	isCut    atomic.Bool
	work     sync.WaitGroup

	mu      sync.Mutex
	open    map[net.Conn]bool
	stalled chan struct{} // nil: it flows; closed when it does again
	lost    atomic.Bool   // what is sent to the server goes nowhere
}

func newRelay(t testing.TB, url string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: l, target: strings.TrimPrefix(url, "nats://"), open: map[net.Conn]bool{}}
	r.work.Go(r.accept)
	t.Cleanup(func() {
		_ = l.Close()
		r.cut()
		r.flow()
		r.work.Wait()
	})
	return r
}

func (r *relay) url() string { return "nats://" + r.listener.Addr().String() }

func (r *relay) accept() {
	for {
		in, err := r.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", r.target)
		if err != nil || !r.keep(in, out) {
			_ = in.Close()
			if out != nil {
				_ = out.Close()
			}
			continue
		}
		for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
			r.work.Go(func() {
				r.pass(pair[0], pair[1])
				_, _ = pair[0].Close(), pair[1].Close()
			})
		}
	}
}

// pass passes on what one side sends until either is closed, and holds it back while the relay is stalled.
func (r *relay) pass(to, from net.Conn) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		r.mu.Lock()
		stalled := r.stalled
		r.mu.Unlock()
		if stalled != nil {
			<-stalled
		}
		if r.lost.Load() && to.RemoteAddr().String() == r.target {
			n = 0
		}
		if _, failed := to.Write(b[:n]); failed != nil || err != nil {
			return
		}
	}
}

// stall lets nothing through until flow, with all connections open: what was sent meanwhile arrives then.
func (r *relay) stall() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stalled == nil {
		r.stalled = make(chan struct{})
	}
}

// swallow takes what is sent to the server and passes nothing on, as a network does that was cut without either side being told. A cut ends it.
func (r *relay) swallow() { r.lost.Store(true) }

func (r *relay) flow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stalled != nil {
		close(r.stalled)
		r.stalled = nil
	}
}

func (r *relay) keep(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		r.open[c] = true
	}
	return !r.isCut.Load()
}

// cut closes every connection and lets none through until mend.
func (r *relay) cut() {
	r.isCut.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		_ = c.Close()
	}
	clear(r.open)
	r.lost.Store(false)
}

func (r *relay) mend() { r.isCut.Store(false) }
