package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	limit = 40 * time.Second // for a condition; nothing should take a second
	never = 5 * time.Hour    // for a timer that something else has to be faster than

	initializedKey = "greenhouse.by_event_type.initialized=3Av1.initialized"
	auditKey       = "greenhouse.by_stream.=24all.audit"
	oneKey         = "greenhouse.by_stream.g-1.one"
	handKey        = "greenhouse.by_stream.=24all.by_hand"
)

// world is a server with the store's stream, and a plain subscriber of what is forwarded.
type world struct {
	testing.TB
	nc *nats.Conn
	js jetstream.JetStream

	mu       sync.Mutex
	heard    map[string][]uint64 // sequences by subject
	last     map[string]*nats.Msg
	appended int
}

func newWorld(t *testing.T) *world {
	node, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Shutdown)
	w := &world{TB: t, heard: map[string][]uint64{}, last: map[string]*nats.Msg{}}
	w.nc = w.connect(node.URL())
	if w.js, err = jetstream.New(w.nc); err != nil {
		t.Fatal(err)
	}
	w.ok(w.js.CreateStream(context.Background(), jetstream.StreamConfig{
		Name: "EXESDB_greenhouse", Subjects: []string{"exesdb.events.greenhouse.>"}, AllowDirect: true,
		RePublish: &jetstream.RePublish{Source: "exesdb.events.greenhouse.>", Destination: "exesdb.stored.greenhouse.>"},
	}))
	for _, subject := range []string{"app.>", "exesdb.delivered.>"} {
		w.ok(w.nc.Subscribe(subject, func(m *nats.Msg) {
			seq, _ := strconv.ParseUint(m.Header.Get("Exesdb-Seq"), 10, 64)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.heard[m.Subject] = append(w.heard[m.Subject], seq)
			w.last[m.Subject] = m
		}))
	}
	return w
}

func (w *world) connect(url string) *nats.Conn {
	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(nc.Close)
	return nc
}

func (w *world) ok(_ any, err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) eventually(what string, ok func() bool) {
	w.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(limit); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			w.mu.Lock()
			defer w.mu.Unlock()
			w.Fatalf("not within %s: %s; heard %v of %d", limit, what, w.heard, w.appended)
		}
	}
}

// append stores n events: two of three are wanted by type, and stream ids take turns.
func (w *world) append(n int) {
	w.Helper()
	for range n {
		w.appended++
		kind := "initialized=3Av1"
		if w.appended%3 == 0 {
			kind = "measured=3Av1"
		}
		m := nats.NewMsg(fmt.Sprintf("exesdb.events.greenhouse.g-%d.%s", w.appended%2, kind))
		m.Header.Set("Nats-Msg-Id", strconv.Itoa(w.appended))
		m.Data = fmt.Appendf(nil, `{"n":%d}`, w.appended)
		w.ok(w.js.PublishMsg(context.Background(), m))
	}
}

// complete waits until each subscriber has heard, once and in order, exactly what it wants of what was
// appended.
func (w *world) complete() (want map[string][]uint64) {
	w.Helper()
	want = map[string][]uint64{}
	for i := 1; i <= w.appended; i++ {
		seq := uint64(i)
		want["exesdb.delivered.greenhouse.audit"] = append(want["exesdb.delivered.greenhouse.audit"], seq)
		if i%3 != 0 {
			want["app.initialized"] = append(want["app.initialized"], seq)
		}
		if i%2 == 1 {
			want["app.one"] = append(want["app.one"], seq)
		}
	}
	w.eventually("every event once and in order", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for subject, seqs := range want {
			if got := w.heard[subject]; !slices.Equal(got, seqs[:min(len(got), len(seqs))]) {
				w.Fatalf("%s: %v, want %v", subject, got, seqs)
			} else if len(got) < len(seqs) {
				return false
			}
		}
		return true
	})
	return want
}

// settled is complete, and then waits until all of it is in the checkpoints.
func (w *world) settled() (c checkpoint) {
	w.Helper()
	want := w.complete()
	for key, subject := range map[string]string{
		initializedKey: "app.initialized", oneKey: "app.one", auditKey: "exesdb.delivered.greenhouse.audit",
	} {
		c = w.saved(key, want[subject][len(want[subject])-1])
	}
	return c
}

func (w *world) get(bucket, key string, v any) bool {
	kv, err := w.js.KeyValue(context.Background(), bucket)
	if err != nil {
		return false
	}
	entry, err := kv.Get(context.Background(), key)
	return err == nil && json.Unmarshal(entry.Value(), v) == nil
}

// saved waits until the key's checkpoint is at seq.
func (w *world) saved(key string, seq uint64) (c checkpoint) {
	w.Helper()
	w.eventually(key+" has its checkpoint", func() bool { return w.get("exesdb_checkpoints", key, &c) && c.Seq == seq })
	return c
}

// emit runs an emitter; end stops it and returns what Run did.
func (w *world) emit(term uint64) (end func() error, ended chan error) {
	ctx, cancel := context.WithCancel(context.Background())
	nc := w.connect(w.nc.ConnectedUrl())
	ended = make(chan error, 1)
	go func() { ended <- Run(ctx, nc, "greenhouse", "test", term) }()
	end = sync.OnceValue(func() error {
		cancel()
		err := <-ended
		nc.Close()
		return err
	})
	w.Cleanup(func() { _ = end() })
	return end, ended
}

func (w *world) serve(subscriptions ...config.Subscription) (stop func()) {
	w.Helper()
	c := config.Default()
	c.NATS.URL, c.Instance.Name = w.nc.ConnectedUrl(), "test"
	c.Stores = []config.Store{{ID: "greenhouse", Subscriptions: subscriptions}}
	p := &c.SubscriptionProxy
	p.InitialReregisterInterval, p.NormalReregisterInterval, p.RetryReregisterInterval, p.MaxBackoffInterval = never, never, never, never
	p.VerificationTimeout = 5 * time.Second
	s, err := service.Start(context.Background(), service.Options{
		Config: c, Version: "0.0.0", StartTimeout: 20 * time.Second, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		w.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		s.Stop(ctx)
	})
	w.Cleanup(stop)
	return stop
}

var subscriptions = []config.Subscription{
	{Name: "initialized", Type: "by_event_type", Selector: "initialized:v1", Forward: &config.Forward{Sink: "publish", Subject: "app.initialized"}},
	{Name: "one", Type: "by_stream", Selector: "g-1", Forward: &config.Forward{Sink: "publish", Subject: "app.one"}},
	{Name: "audit", Type: "by_stream", Selector: "$all"}, // on exesdb.delivered.greenhouse.audit
	{Name: "frost", Type: "by_event_payload", Selector: `{"alarm":"frost"}`},
}

func TestEveryEventOnceAndInOrder(t *testing.T) {
	w := newWorld(t)
	w.append(100)
	stopService := w.serve(subscriptions...)
	end, _ := w.emit(5)
	w.append(201)
	w.complete()
	m := w.last["app.initialized"]
	for k, v := range map[string]string{
		"ce-id": "greenhouse/301", "ce-type": "initialized:v1", "ce-subject": "g-1", "ce-source": "exesdb/greenhouse",
		"ce-specversion": "1.0", "Exesdb-Incarnation": "1", "Exesdb-Seq": "301",
	} {
		if got := m.Header.Get(k); got != v {
			t.Errorf("%s: %q, want %q", k, got, v)
		}
	}
	if string(m.Data) != `{"n":301}` {
		t.Errorf("data %s", m.Data)
	}
	if c := w.settled(); c.Term != 5 || c.Emitter != "test" || c.Epoch == "" || c.UpdatedAt.IsZero() {
		t.Errorf("checkpoint %+v", c)
	}

	// Another start of the emitter, with all acknowledged, and then in the middle of it.
	if err := end(); err != nil {
		t.Fatal(err)
	}
	w.append(50)
	end, _ = w.emit(5)
	w.complete()
	w.append(150)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	end, ended := w.emit(6)

	// Another start of one proxy, and of all. What was forwarded and not acknowledged would come again, so
	// that is waited for.
	w.settled()
	reply, err := w.nc.Request("exesdb.proxy.control.restart", []byte(`{"store":"greenhouse","name":"initialized"}`), limit)
	if err != nil || reply.Header.Get("Nats-Service-Error") != "" {
		t.Fatal(err, reply)
	}
	w.append(31)
	w.complete()
	w.eventually("forwarded under the new incarnation", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.last["app.initialized"].Header.Get("Exesdb-Incarnation") == "2"
	})
	w.settled()
	stopService()
	w.append(31)
	w.serve(subscriptions...)
	w.complete()

	// An older leader is refused, and does not disturb the one that leads.
	_, older := w.emit(4)
	select {
	case err := <-older:
		older <- err // for the cleanup
		if !errors.Is(err, errStaleTerm) || !strings.Contains(err.Error(), "6") {
			t.Errorf("an older leader ends with %v", err)
		}
	case <-time.After(limit):
		t.Fatal("an older leader is not refused")
	}
	w.append(31)
	w.complete()
	select {
	case err := <-ended:
		t.Fatal("the leader ended:", err)
	default:
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	w.complete()
}

// TestAnswers has a proxy by hand, which is not there at first, and loses events and answers.
func TestAnswers(t *testing.T) {
	w := newWorld(t)
	w.append(3)
	kv, err := w.js.CreateKeyValue(context.Background(), jetstream.KeyValueConfig{Bucket: "exesdb_subscriptions"})
	if err != nil {
		t.Fatal(err)
	}
	register := func(deliver string, start int) {
		w.ok(kv.PutString(context.Background(), handKey, fmt.Sprintf(
			`{"store":"greenhouse","type":"by_stream","selector":"$all","name":"by_hand","start_version":%d,"deliver_subject":%q}`, start, deliver)))
	}
	proxy := make(chan *nats.Msg, 1000)
	expect := func(seq, prev, term string) *nats.Msg {
		t.Helper()
		select {
		case m := <-proxy:
			if h := m.Header; h.Get("Exesdb-Seq") != seq || h.Get("Exesdb-Prev") != prev || h.Get("Exesdb-Term") != term {
				t.Fatalf("got %v, want seq %s prev %s term %s", h, seq, prev, term)
			}
			return m
		case <-time.After(limit):
			t.Fatalf("nothing, want seq %s", seq)
		}
		return nil
	}
	answer := func(m *nats.Msg, body string) { w.ok(nil, m.Respond([]byte(body))) }

	register("nobody.listens", 2)
	end, ended := w.emit(7)
	register("deliver.1", 2)
	w.ok(w.nc.ChanSubscribe("deliver.1", proxy)) // perhaps after a question that nobody heard
	answer(expect("0", "", "7"), "-NAK 0")
	expect("2", "0", "7")
	answer(expect("3", "2", "7"), "-NAK 0") // 2 was lost
	m := expect("2", "0", "7")
	answer(m, "+ACK 2")
	expect("3", "2", "7")
	w.saved(handKey, 2)
	m = expect("0", "", "7") // 3 is not acknowledged for a while
	answer(m, "+ACK 2")
	answer(m, "-NAK 3") // with the subscriber
	m = expect("0", "", "7")
	answer(m, "+ACK 3")
	answer(m, "-NAK 3")
	w.saved(handKey, 3)
	w.append(1)
	answer(expect("4", "3", "7"), "-ERR gone")
	answer(expect("0", "", "7"), "-ERR gone") // asks again after a while
	register("deliver.1", 2)
	m = expect("0", "", "7")
	for m.Header.Get("Exesdb-Seq") == "0" && len(proxy) > 0 {
		m = <-proxy
	}
	answer(m, "-NAK 0") // it has just started
	answer(expect("4", "0", "7"), "+ACK 4")
	w.saved(handKey, 4)

	// Released, begun anew, and with new events only.
	w.ok(nil, kv.Delete(context.Background(), handKey))
	checkpoints, err := w.js.KeyValue(context.Background(), "exesdb_checkpoints")
	if err != nil {
		t.Fatal(err)
	}
	w.ok(nil, checkpoints.Delete(context.Background(), handKey))
	register("deliver.1", -1)
	m = expect("0", "", "7")
	w.saved(handKey, 4)
	answer(m, "-NAK 0")
	w.append(1)
	m = expect("5", "0", "7")

	// What is acknowledged after the release counts, and after another has the subscription it does not.
	w.ok(nil, kv.Delete(context.Background(), handKey))
	answer(m, "+ACK 5")
	w.saved(handKey, 5)
	register("deliver.1", -1)
	question := expect("0", "", "7")
	answer(m, "+ACK 9")
	answer(question, "-NAK 0")
	w.append(1)
	answer(expect("6", "0", "7"), "+ACK 6")
	w.saved(handKey, 6)

	// A checkpoint of another stream does not count.
	w.ok(nil, kv.Delete(context.Background(), handKey))
	w.ok(checkpoints.PutString(context.Background(), handKey, `{"seq":4,"term":7,"emitter":"test","epoch":"another"}`))
	register("deliver.2", 0)
	w.ok(w.nc.ChanSubscribe("deliver.2", proxy))
	for m = expect("0", "", "7"); m.Subject != "deliver.2"; m = expect("0", "", "7") {
	}
	answer(m, "-NAK 0")
	answer(expect("1", "0", "7"), "-ERR stale_term 9")
	select {
	case err := <-ended:
		ended <- nil
		if !errors.Is(err, errStaleTerm) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(limit):
		t.Error("does not end")
	}
	_ = end()
}
