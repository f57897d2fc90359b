package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/event"
)

// ordered is a store in a stream of the user's own, ORD, on ord.<stream id>.<type>.
func (g *ground) ordered(change func(*jetstream.StreamConfig)) jetstream.Stream {
	g.Helper()
	c := jetstream.StreamConfig{Name: "ORD", Subjects: []string{"ord.*.*"}}
	change(&c)
	stream, err := g.js.CreateStream(g.Context(), c)
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
		if _, err := g.js.Publish(g.Context(), "ord.o-1.created", fmt.Appendf(nil, `{"n":%d}`, from+i)); err != nil {
			g.Fatal(err)
		}
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
	if told := g.heard("exesdb.emitter.progress.s"); len(told) > 0 {
		p = decode[event.Progress](g, told[len(told)-1].Data)
	}
	return p
}

// A stream that consumers empty is refused, whoever hosts the emitter, and nothing of ours takes an event out of it.
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
		if _, err := g.js.PublishAsync("ord.o-1.created", fmt.Appendf(nil, `{"n":%d}`, 1+i)); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 999 {
			<-g.js.PublishAsyncComplete()
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

// A retention that is changed while it runs is said for as long as it lasts, in the log and in the progress, and nothing of ours
// consumes. When it is changed back all goes on.
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
			g.eventually("it is said", func() bool { return strings.Contains(g.progress().Trouble, "nats stream edit ORD --retention=limits") })
			if n := g.metric("emitter_trouble", "store=s"); n != 1 {
				t.Errorf("metric %v", n)
			}
			g.eventually("it is logged", func() bool { return g.logged("has interest retention") > 0 })
			g.eventually("nothing of ours consumes", func() bool { return len(g.consumersOf(stream)) == 0 })
			users, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "users", AckPolicy: jetstream.AckExplicitPolicy})
			if err != nil {
				t.Fatal(err)
			}
			g.ord(4, 3)
			looks, err := g.nc.SubscribeSync("$JS.API.STREAM.INFO.ORD")
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the feed's
				if _, err := looks.NextMsg(patience); err != nil {
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
			g.eventually("it is good again", func() bool { return g.progress().Trouble == "" && g.metric("emitter_trouble") == 0 })
			if n := g.logged("no event of the store is delivered"); n != 1 {
				t.Errorf("%d lines", n)
			}
		})
	}
}
