package integration

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/membership"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/test/harness"
)

// ordered is a store in a stream of the user's own, ORD, on ord.<stream id>.<type>.
func (g *ground) ordered(change func(*jetstream.StreamConfig)) jetstream.Stream {
	g.Helper()
	c := jetstream.StreamConfig{Name: "ORD", Subjects: []string{"ord.*.*"}}
	change(&c)
	stream, err := g.JS.CreateStream(g.Context(), c)
	if err != nil {
		g.Fatal(err)
	}
	s := &g.config.Stores[0].Stream
	s.Name, s.StreamToken, s.EventTypeToken = "ORD", 2, 3
	return stream
}

// ord appends events to ORD.
func (g *ground) ord(from, n int) {
	g.Helper()
	for i := range n {
		g.appendMessage(&nats.Msg{Subject: "ord.o-1.created", Data: fmt.Appendf(nil, `{"n":%d}`, from+i)})
	}
}

func stored(c *jetstream.StreamConfig) {
	c.AllowDirect, c.RePublish = true, &jetstream.RePublish{Source: ">", Destination: "exesdb.stored.s.>"}
}

// consumersOf are the names of a stream's consumers.
func (g *ground) consumersOf(stream jetstream.Stream) (names []string) {
	g.Helper()
	lister := stream.ConsumerNames(g.Context())
	for name := range lister.Name() {
		names = append(names, name)
	}
	if err := lister.Err(); err != nil {
		g.Fatal(err)
	}
	return names
}

// progress is what the leading emitter told last; zero: nothing.
func (g *ground) progress() (p event.Progress) {
	g.Helper()
	if told := g.Heard("exesdb.emitter.progress.s"); len(told) > 0 {
		p = harness.Decode[event.Progress](g, told[len(told)-1].Data)
	}
	return p
}

// A stream that consumers empty is refused, whoever hosts the emitter, and nothing of ours takes an event
// out of it.
func TestStreamThatConsumersEmptyIsAStartUpError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*jetstream.StreamConfig)
		says   []string
	}{
		{"interest", func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }, []string{"interest", "--retention=limits"}},
		{"interest, republished", func(c *jetstream.StreamConfig) { stored(c); c.Retention = jetstream.InterestPolicy }, []string{"interest", "--retention=limits"}},
		{"work queue", func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, []string{
			"work-queue", "--allow-direct", "--republish-source='>'", "--republish-destination='exesdb.stored.s.>'",
		}},
		{"work queue, no direct get", func(c *jetstream.StreamConfig) {
			stored(c)
			c.Retention, c.AllowDirect = jetstream.WorkQueuePolicy, false
		}, []string{"work-queue", "--allow-direct"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newGround(t, nil)
			stream := g.ordered(c.change)
			if _, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "users", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
				t.Fatal(err)
			}
			g.ord(1, 10)
			err := g.tryStart()
			if err == nil {
				t.Fatal("it starts")
			}
			for _, says := range append(c.says, "stores[].stream.name", "ORD", "nats stream edit ORD") {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("%q does not say %q", err, says)
				}
			}
			if n := g.logged("not ready yet"); n > 0 {
				t.Errorf("it was waited for: %d lines", n)
			}
			info, err := stream.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if names := g.consumersOf(stream); info.State.Msgs != 10 || len(names) != 1 {
				t.Errorf("%d of 10 messages are left, consumers %v", info.State.Msgs, names)
			}
		})
	}
}

// Nothing is consumed where the stream republishes what it stores, however long the catch-up.
func TestWorkQueueThatRepublishesIsServed(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil)
	stream := g.ordered(func(c *jetstream.StreamConfig) { stored(c); c.Retention = jetstream.WorkQueuePolicy })
	const old, live = 9000, 10 // more than passes read by direct get alone
	for i := range old {
		if _, err := g.JS.PublishAsync("ord.o-1.created", fmt.Appendf(nil, `{"n":%d}`, 1+i)); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 999 {
			<-g.JS.PublishAsyncComplete()
		}
	}
	g.start()
	g.awaitDelivered("all", old)
	g.ord(old+1, live)
	g.awaitDelivered("all", old+live)
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if names := g.consumersOf(stream); info.State.Msgs != old+live || len(names) > 0 {
		t.Errorf("%d messages are left, consumers %v", info.State.Msgs, names)
	}
}

// A retention that is changed while it runs is said for as long as it lasts, in the log and in the
// progress, and nothing of ours consumes. When it is changed back all goes on.
func TestRetentionChangedWhileItRunsIsSaid(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"republished", "by a consumer"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			g := newGround(t, nil)
			stream := g.ordered(func(c *jetstream.StreamConfig) {
				if mode == "republished" {
					stored(c)
				}
			})
			g.start()
			g.ord(1, 3)
			g.awaitDelivered("all", 3)
			change := func(to jetstream.RetentionPolicy) {
				g.editStream("ORD", func(c *jetstream.StreamConfig) { c.Retention = to })
			}
			change(jetstream.InterestPolicy)
			g.Eventually("it is said", func() bool { return strings.Contains(g.progress().Trouble, "nats stream edit ORD --retention=limits") })
			if n := g.metric("emitter_trouble", "store=s"); n != 1 {
				t.Errorf("metric %v", n)
			}
			g.Eventually("it is logged", func() bool { return g.logged("has interest retention") > 0 })
			g.Eventually("nothing of ours consumes", func() bool { return len(g.consumersOf(stream)) == 0 })
			users, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "users", AckPolicy: jetstream.AckExplicitPolicy})
			if err != nil {
				t.Fatal(err)
			}
			g.ord(4, 3)
			looks, err := g.NC.SubscribeSync("$JS.API.STREAM.INFO.ORD")
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the feed's
				if _, err := looks.NextMsg(harness.Patience); err != nil {
					t.Fatal(err)
				}
			}
			if info, err := users.Info(t.Context()); err != nil || info.NumPending != 3 {
				t.Fatalf("%+v, %v", info, err)
			}
			if names := g.consumersOf(stream); len(names) != 1 {
				t.Errorf("consumers %v", names)
			}
			change(jetstream.LimitsPolicy)
			g.awaitDelivered("all", 6)
			g.Eventually("it is good again", func() bool { return g.progress().Trouble == "" && g.metric("emitter_trouble") == 0 })
			if n := g.logged("no event of the store is delivered"); n != 1 {
				t.Errorf("%d lines", n)
			}
		})
	}
}

// statuses are values of a header Status with which an event without data looks like an answer of the
// server.
var statuses = []string{"500", "503", "204", "404", "408", "409", "100", "open"}

// appendStatuses appends an event, one of each status without data, and another event.
func (g *ground) appendStatuses(prefix string) {
	g.Helper()
	add := func(kind, status string, data []byte) {
		m := nats.NewMsg(prefix + kind)
		m.Data = data
		if status != "" {
			m.Header["Status"] = []string{status}
		}
		g.appendMessage(m)
	}
	add("created", "", []byte(`{"n":1}`))
	for _, status := range statuses {
		add("shipped", status, nil)
	}
	add("created", "", []byte(`{"n":3}`))
}

// awaitStatuses waits for what appendStatuses appended, each once and in order.
func (g *ground) awaitStatuses(what string, get func() []*nats.Msg) {
	g.Helper()
	want := append(append([]string{"created "}, statuses...), "created ")
	for i := range statuses {
		want[i+1] = "shipped " + statuses[i]
	}
	var got []string
	defer func() {
		if g.Failed() {
			g.Logf("%s: %q", what, got)
		}
	}()
	g.Eventually(what+" has all", func() bool {
		got = nil
		for _, m := range get() {
			got = append(got, m.Header.Get("ce-type")+" "+m.Header.Get("Status"))
		}
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		g.Fatalf("%s got %q, want %q", what, got, want)
	}
}

func TestEventWithAHeaderStatusIsDeliveredByEveryPath(t *testing.T) {
	t.Parallel()
	for _, apart := range []bool{false, true} {
		for _, republished := range []bool{true, false} {
			t.Run(fmt.Sprintf("emitter apart %v, republished %v", apart, republished), func(t *testing.T) {
				t.Parallel()
				g := newGround(t, nil)
				g.ordered(func(c *jetstream.StreamConfig) {
					if republished {
						stored(c)
					}
				})
				if apart {
					g.startApart()
				} else {
					g.start()
				}
				g.Eventually("it is registered", func() bool { return len(g.Writes()) > 0 })
				g.appendStatuses("ord.o-1.")
				g.awaitStatuses("live", func() []*nats.Msg { return g.delivered("all") })
				g.reload(func(c *config.Config) {
					c.Stores[0].Subscriptions = append(c.Stores[0].Subscriptions, allEvents("later"))
				})
				g.awaitStatuses("catch-up", func() []*nats.Msg { return g.delivered("later") })
			})
		}
	}
}

// What a sink sends looks like an answer of the server, too; and what a subscriber refuses is parked, and
// replayed.
func TestEventWithAHeaderStatusGoesToEverySink(t *testing.T) {
	t.Parallel()
	to := func(name, sink, subject string) config.Subscription {
		s := allEvents(name)
		s.Forward = &config.Forward{Sink: sink, Subject: subject, Timeout: harness.Patience, MaxDeliver: 1}
		return s
	}
	g := newGround(t, nil, to("request", "request", "app.request"), to("stream", "stream", "app.stream"), to("refusing", "request", "app.refuse"))
	app, err := g.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "APP", Subjects: []string{"app.stream"}})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var requested, replayed []*nats.Msg
	refuse := true
	for subject, answer := range map[string]func(*nats.Msg) string{
		"app.request": func(m *nats.Msg) string { requested = append(requested, m); return "" },
		"app.refuse": func(m *nats.Msg) string {
			if refuse {
				return "-ERR not now"
			}
			replayed = append(replayed, m)
			return "+ACK"
		},
	} {
		_, err := g.NC.Subscribe(subject, func(m *nats.Msg) {
			mu.Lock()
			defer mu.Unlock()
			_ = m.Respond([]byte(answer(m)))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	heard := func(messages *[]*nats.Msg) func() []*nats.Msg {
		return func() []*nats.Msg {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(*messages)
		}
	}
	g.start()
	g.appendStatuses("exesdb.events.s.o-1.")
	g.awaitStatuses("request", heard(&requested))
	g.awaitStatuses("stream", func() (messages []*nats.Msg) {
		info, err := app.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for seq := range info.State.LastSeq {
			m, err := feed.NewDirect(g.JS, "APP").Get(t.Context(), seq+1)
			if err != nil {
				t.Fatal(err)
			}
			messages = append(messages, &nats.Msg{Header: m.Header})
		}
		return messages
	})
	lot, err := deadletter.Open(t.Context(), g.JS, deadletter.Config{})
	if err != nil {
		t.Fatal(err)
	}
	parked := func() (all []deadletter.Parked) {
		for p, err := range lot.List(t.Context(), "s", "refusing") {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, p)
		}
		return all
	}
	g.awaitStatuses("parked", func() (messages []*nats.Msg) {
		for _, p := range parked() {
			messages = append(messages, &nats.Msg{Header: p.Header})
		}
		return messages
	})
	mu.Lock()
	refuse = false
	mu.Unlock()
	for _, p := range parked() {
		c := sink.ParkedConfig(&p)
		c.Timeout = harness.Patience
		s, err := sink.New(g.JS, c)
		if err == nil {
			err = sink.Replay(t.Context(), lot, p, s)
		}
		if err != nil {
			t.Errorf("replay %d: %v", p.StoreSequence, err)
		}
	}
	g.awaitStatuses("replayed", heard(&replayed))
	if left := parked(); len(left) > 0 {
		t.Errorf("%d are left", len(left))
	}
}

// A mirror of the registry's bucket, as of the one of checkpoints, answers direct gets for it, and has half
// of it. Nothing is taken from it, and nothing is taken to be missing.
func TestMirrorsBesideTheBucketsAreNotTakenForThem(t *testing.T) {
	t.Parallel()
	var subscriptions []config.Subscription
	const n = 40
	name := func(i int) string { return fmt.Sprint("s", 10+i) }
	for i := range n {
		subscriptions = append(subscriptions, allEvents(name(i)))
	}
	g := newGround(t, nil, subscriptions...)
	g.start()
	g.append(1, 3)
	for i := range n {
		g.awaitDelivered(name(i), 3)
	}
	g.stop() // the checkpoints are written
	for bucket, keys := range map[string]string{
		"exesdb_subscriptions": "s.by_stream.*.s10", "exesdb_checkpoints": "s.by_stream.*.s10", "exesdb_cluster": "leader.s",
	} {
		m, err := g.JS.CreateStream(t.Context(), jetstream.StreamConfig{
			Name: "MIRROR_" + bucket, Mirror: &jetstream.StreamSource{Name: "KV_" + bucket, FilterSubject: "$KV." + bucket + "." + keys},
		})
		if err != nil {
			t.Fatal(err)
		}
		if !m.CachedInfo().Config.MirrorDirect {
			t.Skip("a server that does not have mirrors answer for their origin by itself")
		}
	}
	mirrorAnswers := func(bucket, key string) {
		kv, err := g.JS.KeyValue(t.Context(), bucket)
		if err != nil {
			t.Fatal(err)
		}
		g.Eventually("the mirror of "+bucket+" answers", func() bool {
			_, err := kv.Get(t.Context(), key) // which it does not have
			return errors.Is(err, jetstream.ErrKeyNotFound)
		})
	}
	mirrorAnswers("exesdb_checkpoints", "s.by_stream.=24all.s11")
	g.start()
	g.append(4, 2)
	for i := range n {
		g.awaitDelivered(name(i), 5) // and no event again
		g.AwaitStatus("s."+name(i), "verified", func(s harness.Status) bool { return s.Verified })
	}
	mirrorAnswers("exesdb_subscriptions", "s.by_stream.=24all.s11")
	mirrorAnswers("exesdb_cluster", "member."+g.config.Instance.Name)
	records, err := kv.OpenExisting(t.Context(), g.JS, "exesdb_subscriptions")
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := kv.OpenExisting(t.Context(), g.JS, "exesdb_cluster")
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // as subproxy list and subproxy members do
		if all, err := records.List(t.Context(), "s", ""); err != nil || len(all) != n {
			t.Fatalf("%d registrations, %v", len(all), err)
		}
		if members, err := membership.ReadMembers(t.Context(), sessions); err != nil || len(members) != 1 {
			t.Fatalf("%d members, %v", len(members), err)
		}
	}
}
