package integration

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/exesdb/subproxy/test/harness"
)

// What pkg/subscription's table has for every pair, through a store.
func TestPayloadsAreComparedAsPostgreSQLDoes(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil, allEvents("all"),
		config.Subscription{Name: "exact", Type: "by_event_payload", Selector: `{"v":9007199254740993}`},
		config.Subscription{Name: "huge", Type: "by_event_payload", Selector: `{"v":1e400}`},
		config.Subscription{Name: "zero", Type: "by_event_payload", Selector: `{"v":0}`},
		config.Subscription{Name: "any", Type: "by_event_payload", Selector: `{}`},
	)
	g.start()
	data := []string{
		`{"n":1,"v":9007199254740992}`, `{"n":2,"v":9007199254740993.0}`, `{"n":3,"v":10e399}`, `{"n":4,"v":1e-400}`, `{"n":5,"v":-0.0}`,
		`{"n":6,"v":1}}`, `{"n":7,"t":"\ud800"}`, `{"n":8,"t":"\u0000"}`, "{\"n\":9,\"t\":\"\xff\"}", `{"n":10,"v":1e131072}`, `{"n":11,"v":1,"v":0}`,
	}
	for _, d := range data {
		g.put("exesdb.events.s.o-1.created", d, nil)
	}
	g.Eventually("all has all", func() bool { return len(g.delivered("all")) == len(data) })
	for name, want := range map[string][]int{"exact": {2}, "huge": {3}, "zero": {5, 11}, "any": {1, 2, 3, 4, 5, 11}} {
		g.awaitNumbers(name, want...)
	}
}

// put stores a message as any client of NATS can, with headers in the case in which they are given.
func (g *ground) put(subject, data string, header nats.Header) {
	g.Helper()
	g.appendMessage(&nats.Msg{Subject: subject, Header: header, Data: []byte(data)})
}

// Events as other programs store them are found by their attributes, live, in catch-up, and with one set of
// attributes.
func TestCloudEventsAreReadAsTheirBindingSays(t *testing.T) {
	t.Parallel()
	subscriptions := []config.Subscription{
		allEvents("all"), {Name: "cafe", Type: "by_event_type", Selector: "café"}, {Name: "o1", Type: "by_stream", Selector: "o 1"},
		{Name: "json", Type: "by_event_pattern", Selector: `{"datacontenttype":"application/json"}`},
		{Name: "time", Type: "by_event_pattern", Selector: `{"time":"2026-11-23T07:00:00.10Z"}`},
		{Name: "area", Type: "by_event_payload", Selector: `{"area":12}`},
	}
	var later []config.Subscription
	for _, s := range subscriptions {
		s.Name = "later-" + s.Name
		later = append(later, s)
	}
	g := newGround(t, nil, subscriptions...)
	g.start()
	const structured = "application/cloudevents+json; charset=utf-8"
	g.put("exesdb.events.s.o=201.caf=C3=A9", `{"n":1}`, nats.Header{"ce-type": {"caf%C3%A9"}, "ce-subject": {"o%201"}})
	g.put("exesdb.events.s.o-2.t", `{"n":2}`, nats.Header{"Ce-Type": {"café"}, "Ce-Subject": {`"o 1"`}, "Ce-Id": {"2"}, "ce-datacontenttype": {"application/json"}})
	g.put("exesdb.events.s.o-3.t", `{"specversion":"1.0","id":"3","source":"/m","type":"café","subject":"o 1","time":"2026-11-23T07:00:00.10Z","data":{"n":3,"area":12}}`,
		nats.Header{"Content-Type": {structured}, "ce-type": {"outer"}})
	g.put("exesdb.events.s.o-4.caf=C3=A9", `{"specversion":"1.0","id":"4","source":"/m","type":"t","subject":"o 1","data_base64":"eyJuIjo0LCJhcmVhIjoxMn0="}`, nats.Header{"content-type": {structured}})
	g.put("exesdb.events.s.o-5.t", `{"n":5,"area":12.0}`, nats.Header{"content-type": {"application/json"}, "ce-time": {"2026-11-23T07:00:00.10Z"}})
	g.put("exesdb.events.s.o=201.t", `{"n":6}`, nats.Header{"ce-time": {"2026-11-23T07:00:00.1Z"}})
	want := map[string][]int{"all": {1, 2, 3, 4, 5, 6}, "cafe": {1, 2, 3}, "o1": {1, 2, 3, 4, 6}, "json": {2, 3, 5}, "time": {3, 5}, "area": {3, 4, 5}}
	for name, numbers := range want {
		g.awaitNumbers(name, numbers...)
	}
	g.reload(func(c *config.Config) { c.Stores[0].Subscriptions = append(c.Stores[0].Subscriptions, later...) })
	for name, numbers := range want {
		g.awaitNumbers("later-"+name, numbers...)
	}
	for _, m := range append(g.delivered("all"), g.delivered("later-all")...) {
		seen := map[string]bool{}
		for k, v := range m.Header {
			lower := strings.ToLower(k)
			if strings.HasPrefix(lower, "ce-") && (k != lower || len(v) != 1) || seen[lower] {
				t.Errorf("%s is there as %s: %v", lower, k, v)
			}
			seen[lower] = true
			for _, c := range v[0] {
				if lower != "content-type" && (c <= ' ' || c > '~' || c == '"') {
					t.Errorf("%s: %q", k, v[0])
				}
			}
		}
	}
	h := g.delivered("all")[1].Header
	if h.Get("ce-id") != "2" || h.Get("ce-type") != "caf%C3%A9" || h.Get("ce-subject") != "o%201" || h.Get("content-type") != "application/json" {
		t.Errorf("the second is sent on with %v", h)
	}
}

// Whoever does not know how names become tokens is still understood where NATS stored the event.
func TestTypesWithDotsReachTheirSubscribers(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil, allEvents("all"),
		config.Subscription{Name: "dotted", Type: "by_event_type", Selector: "order.created"},
		config.Subscription{Name: "versioned", Type: "by_event_type", Selector: "created:v1"},
		config.Subscription{Name: "stream", Type: "by_stream", Selector: "o-1"},
	)
	g.start()
	g.put("exesdb.events.s.o-1.order.created", `{"n":1}`, nil)
	g.put("exesdb.events.s.o-1.order=2Ecreated", `{"n":2}`, nil)
	g.put("exesdb.events.s.o-1.created:v1", `{"n":3}`, nil)
	g.put("exesdb.events.s.o-1", `{"n":4}`, nil)
	g.put("exesdb.events.s.o-1.a.b.c.d", `{"n":5}`, nil)
	for name, numbers := range map[string][]int{"all": {1, 2, 3, 5}, "dotted": {1, 2}, "versioned": {3}, "stream": {1, 2, 3, 5}} {
		g.awaitNumbers(name, numbers...)
	}
	g.Eventually("the one that is no event is counted", func() bool { return g.metric("emitter_malformed_total") > 0 })
	if n := g.metric("emitter_malformed_total"); n > 2 { // the tail and a catch-up may each read it
		t.Errorf("the one that is no event is counted %v times", n)
	}
	g.Eventually("it is told once", func() bool { return g.logged("are no events reach nobody: 1 so far") == 1 })
	if h := g.delivered("all")[0].Header; h.Get("ce-type") != "order.created" || h.Get("ce-subject") != "o-1" {
		t.Errorf("sent on with %v", h)
	}
}

// Another selector with the same forward is another subscription: its events say so, and neither a
// subscriber that keeps its place nor a stream takes them for the other's.
func TestAnotherSelectorWithTheSameForwardBeginsAnew(t *testing.T) {
	t.Parallel()
	placed := func(name, sink, subject string) config.Subscription {
		return config.Subscription{Name: name, Type: "by_event_type", Selector: "placed", Forward: &config.Forward{Sink: sink, Subject: subject, Timeout: time.Second, MaxDeliver: 5}}
	}
	g := newGround(t, nil, placed("asked", "request", "app.asked"), placed("stored", "stream", "app.stored"))
	if _, err := g.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OUT", Subjects: []string{"app.stored"}}); err != nil {
		t.Fatal(err)
	}
	// The rules of Fencing, in short.
	var mu sync.Mutex
	places := map[string][2]int{}
	done := map[string]int{}
	sub, err := g.NC.Subscribe("app.asked", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		key := m.Header.Get(event.SubscriptionHeader)
		incarnation, _ := strconv.Atoi(m.Header.Get(event.IncarnationHeader))
		seq, _ := strconv.Atoi(m.Header.Get(event.SequenceHeader))
		answer := "+ACK"
		switch at := places[key]; {
		case incarnation < at[0]:
			answer = fmt.Sprintf("-ERR superseded %d", at[0])
		case seq > at[1]:
			done[key]++
			places[key] = [2]int{incarnation, seq}
		}
		_ = m.Respond([]byte(answer))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	const both, onlyAll = 5, 10
	g.start()
	for range both {
		g.put("exesdb.events.s.o-1.placed", `{"n":1}`, nil)
	}
	for range onlyAll {
		g.put("exesdb.events.s.o-1.paid", `{"n":2}`, nil)
	}
	const first, second = "s.by_event_type.placed.asked", "s.by_stream.=24all.asked"
	is := func(key string, n int) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return done[key] == n
		}
	}
	stored := func(n uint64) func() bool { return func() bool { return g.last("OUT") == n } }
	g.Eventually("the first has its events", is(first, both))
	g.Eventually("so has the stream", stored(both))
	g.stop()
	g.start() // another incarnation of the first
	for range both {
		g.put("exesdb.events.s.o-1.placed", `{"n":3}`, nil)
	}
	g.Eventually("the first goes on", is(first, 2*both))
	g.reload(func(c *config.Config) {
		c.Stores[0].Subscriptions = slices.Clone(c.Stores[0].Subscriptions)
		for i := range c.Stores[0].Subscriptions {
			c.Stores[0].Subscriptions[i].Type, c.Stores[0].Subscriptions[i].Selector = "by_stream", "$all"
		}
	})
	g.Eventually("the second has all events", is(second, 2*both+onlyAll))
	g.Eventually("so has the stream, beside those of the first", stored(4*both+onlyAll))
	out, err := g.JS.Stream(t.Context(), "OUT")
	if err != nil {
		t.Fatal(err)
	}
	m, err := out.GetMsg(t.Context(), 4*both+onlyAll)
	if err != nil || m.Header.Get(event.SubscriptionHeader) != "s.by_stream.=24all.stored" || !strings.HasPrefix(m.Header.Get("Nats-Msg-Id"), "s.by_stream.=24all.stored/") {
		t.Errorf("the last is %v, %v", m, err)
	}
}

// keysOf are the keys of a bucket that have a record of that subscription's name.
func (g *ground) keysOf(bucket, name string) (keys []string) {
	g.Helper()
	kv, err := g.JS.KeyValue(g.Context(), bucket)
	if err != nil {
		g.Fatal(err)
	}
	all, err := kv.ListKeys(g.Context())
	if err != nil {
		g.Fatal(err)
	}
	for key := range all.Keys() {
		if strings.HasSuffix(key, "."+name) {
			keys = append(keys, key)
		}
	}
	return keys
}

// A selector that means the same is the same subscription: no replay, whoever wrote it into a key, and in
// which way.
func TestSelectorThatMeansTheSameIsTheSameSubscription(t *testing.T) {
	t.Parallel()
	payload := config.Subscription{Name: "p", Type: "by_event_payload", Selector: `{"kind":"x","area":12}`}
	pattern := config.Subscription{Name: "q", Type: "by_event_pattern", Selector: `{"type":"created","subject":"o-1"}`}
	g := newGround(t, nil, payload, pattern)
	g.start()
	next := 0
	more := func() {
		t.Helper()
		next++
		g.put("exesdb.events.s.o-1.created", fmt.Sprintf(`{"n":%d,"area":12.0,"kind":"x"}`, next), nil)
	}
	await := func() {
		t.Helper()
		var want []int
		for n := range next {
			want = append(want, n+1)
		}
		g.awaitNumbers("p", want...)
		g.awaitNumbers("q", want...)
	}
	selectors := func(p, q string) {
		t.Helper()
		read := *g.config // anew, as SIGHUP does
		g.config = &read
		g.reload(func(c *config.Config) {
			payload.Selector, pattern.Selector = p, q
			c.Stores = []config.Store{store(groundStore, payload, pattern)}
		})
	}
	more()
	more()
	await()
	selectors(`{"area": 1.2e1, "kind": "\u0078"}`, `{ "subject":"o-1", "type":"created" }`)
	more()
	await()
	const now = "s.by_event_payload.=7B=22area=22=3A12=2C=22kind=22=3A=22x=22=7D.p"
	const before = "s.by_event_payload.=7B=22kind=22=3A=22x=22=2C=22area=22=3A12=7D.p" // as the version of before had it
	for _, bucket := range []string{"exesdb_subscriptions", "exesdb_checkpoints"} {
		g.Eventually("there is one key in "+bucket, func() bool { return slices.Equal(g.keysOf(bucket, "p"), []string{now}) })
	}
	if g.logged("is another subscription") != 0 {
		t.Error("the same is said to be another")
	}
	g.Eventually("the checkpoint is written", func() bool { return g.checkpoint(now) == 3 })
	g.stop()

	// A deployment of the version before, that was killed.
	for _, bucket := range []string{"exesdb_subscriptions", "exesdb_checkpoints"} {
		kv, err := g.JS.KeyValue(t.Context(), bucket)
		if err != nil {
			t.Fatal(err)
		}
		record := `{"store":"s","type":"by_event_payload","selector":"{\"kind\":\"x\",\"area\":12}","name":"p","start_version":0,"owner":{"name":"gone","id":"GONE","host":"h","pid":1},"incarnation":7,"deliver_subject":"exesdb.proxy.deliver.GONE.1","term":0,"cause":"initial","registered_at":"2026-11-23T07:00:00Z"}`
		if bucket == "exesdb_checkpoints" {
			entry, err := kv.Get(t.Context(), now)
			if err != nil {
				t.Fatal(err)
			}
			record = string(entry.Value())
		}
		if _, err := kv.PutString(t.Context(), before, record); err != nil {
			t.Fatal(err)
		}
		stream, err := g.JS.Stream(t.Context(), "KV_"+bucket)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject("$KV."+bucket+"."+now)); err != nil {
			t.Fatal(err)
		}
	}
	g.start()
	more()
	await()
	for _, bucket := range []string{"exesdb_subscriptions", "exesdb_checkpoints"} {
		g.Eventually("the key of before is gone from "+bucket, func() bool { return slices.Equal(g.keysOf(bucket, "p"), []string{now}) })
	}
	if got := g.delivered("p"); got[len(got)-1].Header.Get(event.IncarnationHeader) != "8" {
		t.Errorf("the last is of incarnation %s", got[len(got)-1].Header.Get(event.IncarnationHeader))
	}

	g.Eventually("the checkpoint is written again", func() bool { return g.checkpoint(now) == 4 })

	// Another one is said to be one, with where it begins, and begins there.
	selectors(`{"area":12}`, pattern.Selector)
	g.Eventually("all events come again", func() bool { return len(g.delivered("p")) == 2*next })
	g.Eventually("instance and emitter say so", func() bool { return g.logged("another type or selector is another subscription") == 2 })
	if g.logged("begins_at=0") != 2 || g.logged("sequence_before=4") != 1 {
		t.Error("nothing says where it begins, or what stays")
	}
	g.Eventually("both have checkpoints", func() bool {
		got := g.keysOf("exesdb_checkpoints", "p")
		return slices.Contains(got, now) && len(got) == 2
	})
}

// awaitNumbers waits until a subscription has exactly these events, in this order.
func (g *ground) awaitNumbers(name string, want ...int) {
	g.Helper()
	var got []int
	g.Eventually(fmt.Sprintf("%s has %v", name, want), func() bool {
		got = g.numbers(g.delivered(name))
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		g.Errorf("%s got %v, wanted %v", name, got, want)
	}
}

// What JetStream stored and is no event reaches nobody: that is said, whether it is found as it is stored
// or later, and the others go on.
func TestMessageThatIsNoEventIsSeen(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer than the rest together")
	}
	t.Parallel()
	for _, c := range []struct {
		name           string
		later, without bool
	}{{"live", false, false}, {"without republish", false, true}, {"in catch-up", true, false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newGround(t, nil)
			g.start()
			if c.without {
				g.editStream(groundStream, func(s *jetstream.StreamConfig) { s.RePublish = nil })
			}
			g.append(1, 1)
			g.awaitDelivered("all", 1)
			if c.later {
				g.Eventually("a checkpoint", func() bool { return g.checkpoint("s.by_stream.=24all.all") == 1 })
				g.stop()
			}
			g.put("exesdb.events.s.a", `{"n":9}`, nil)
			g.append(2, 1)
			if c.later {
				g.start()
			}
			g.awaitDelivered("all", 2)
			g.awaitRaised("warning store")
			if a := harness.Decode[status.Alert](g, g.Heard("exesdb.proxy.alert.s")[0].Data); !strings.Contains(a.Message, "sequence 2") || !strings.Contains(a.Message, "exesdb.events.s.a") {
				t.Errorf("the alert says %q", a.Message)
			}
			g.put("exesdb.events.s.b", `not JSON`, nats.Header{"Content-Type": {"application/cloudevents+json"}})
			g.append(3, 1)
			g.awaitDelivered("all", 3)
			g.Eventually("the status says so", func() bool {
				p := g.told("all").PassedOver
				return p != nil && p.Messages == 2 && p.Sequence == 4 && p.Subject == "exesdb.events.s.b" && p.Reason != ""
			})
			if s := g.told("all"); s.Health != "healthy" {
				t.Errorf("it is %s: %s", s.Health, s.LastError)
			}
			g.awaitRaised("warning store")
			if n := g.metric("emitter_malformed_total"); n < 1 {
				t.Errorf("counted: %v", n)
			}
		})
	}
}
