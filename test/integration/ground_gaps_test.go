package integration

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/service"
	"github.com/exesdb/subproxy/pkg/emitter"
)

// startApart starts the instance, and the store's emitter with connections of its own, as subproxy emitter
// does.
func (g *ground) startApart() {
	g.Helper()
	g.config.Emitter.Enabled = false
	g.start()
	c := *g.config
	c.Emitter.Enabled = true
	var err error
	g.emitter, err = service.StartEmitter(context.Background(), service.EmitterOptions{
		Config: &c, Logger: slog.New(slog.NewTextHandler(g.log, nil)), Metrics: emitter.NewMetrics(g.metrics), StartTimeout: 20 * time.Second,
	})
	if err != nil {
		g.Fatal(err)
	}
}

// sequences are the store's sequences of what a subscription's default sink has published so far.
func (g *ground) sequences(name string) (all []uint64) {
	g.Helper()
	for _, m := range g.delivered(name) {
		n, err := strconv.ParseUint(m.Header.Get("Exesdb-Seq"), 10, 64)
		if err != nil {
			g.Fatalf("Exesdb-Seq: %v", err)
		}
		all = append(all, n)
	}
	return all
}

// awaitSequences waits until a subscription has exactly these.
func (g *ground) awaitSequences(name string, want ...uint64) {
	g.Helper()
	var got []uint64
	defer func() {
		if g.Failed() {
			g.Logf("%s got %v, not %v", name, got, want)
		}
	}()
	g.Eventually(fmt.Sprintf("%s has %d events", name, len(want)), func() bool {
		got = g.sequences(name)
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		g.Fatalf("%s got %v, not %v", name, got, want)
	}
}

// last is the last sequence of a stream, also of what is gone.
func (g *ground) last(stream string) uint64 {
	g.Helper()
	s, err := g.JS.Stream(g.Context(), stream)
	if err != nil {
		g.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}

// store stores a message with headers, given as name, value and so on, and returns its sequence.
func (g *ground) store(subject, data string, headers ...string) uint64 {
	g.Helper()
	m := &nats.Msg{Subject: subject, Header: nats.Header{}, Data: []byte(data)}
	for pair := range slices.Chunk(headers, 2) {
		m.Header[pair[0]] = []string{pair[1]}
	}
	return g.appendMessage(m).Sequence
}

// waysToFollow are the ways in which a store's stream is followed and read.
var waysToFollow = map[string]func(*jetstream.StreamConfig){
	"republish":           func(*jetstream.StreamConfig) {},
	"without republish":   func(c *jetstream.StreamConfig) { c.RePublish = nil },
	"without direct gets": func(c *jetstream.StreamConfig) { c.RePublish, c.AllowDirect = nil, false },
}

func TestMarkersAreNoEvents(t *testing.T) {
	t.Parallel()
	for way, follow := range waysToFollow {
		for _, apart := range []bool{false, true} {
			if apart && way != "republish" {
				continue
			}
			t.Run(fmt.Sprintf("%s, apart %t", way, apart), func(t *testing.T) {
				t.Parallel()
				kept := allEvents("kept")
				kept.Forward = &config.Forward{Sink: "stream", Subject: "kept.it", Timeout: time.Second, MaxDeliver: 5}
				typed := byType("typed", "created")
				g := newGround(t, nil, allEvents("all"), kept, typed)
				if _, err := g.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"kept.>"}}); err != nil {
					t.Fatal(err)
				}
				start := g.start
				if apart {
					start = g.startApart
				}
				start()
				g.editStream(groundStream, func(c *jetstream.StreamConfig) {
					c.AllowMsgTTL, c.SubjectDeleteMarkerTTL, c.MaxAge, c.Duplicates = true, time.Hour, time.Second, time.Second
					follow(c)
				})
				g.append(1, 1)
				g.awaitSequences("all", 1)
				g.Eventually("the event is a marker now", func() bool { return g.last(groundStream) == 2 })
				// The server leaves none for these reasons yet, but has names for them.
				g.store("exesdb.events.s.o-1.created", "", "Nats-Marker-Reason", "Purge")
				g.store("exesdb.events.s.o-1.created", "", "Nats-Marker-Reason", "Remove")
				g.editStream(groundStream, func(c *jetstream.StreamConfig) { c.MaxAge = 0 })
				g.append(5, 1)
				g.awaitSequences("all", 1, 5)
				g.awaitSequences("typed", 1, 5)
				g.Eventually("the other stream has both", func() bool { return g.last("KEPT") == 2 })
				// What began later reads the markers.
				g.reload(func(c *config.Config) {
					c.Stores[0].Subscriptions = append(c.Stores[0].Subscriptions, allEvents("later"))
				})
				var later []uint64 // the first may still be in the emitter's memory
				g.Eventually("the later one has the last event", func() bool {
					later = slices.DeleteFunc(g.sequences("later"), func(n uint64) bool { return n == 1 })
					return len(later) > 0
				})
				if !slices.Equal(later, []uint64{5}) {
					t.Errorf("the later one got %v", later)
				}
				// And what was stopped meanwhile.
				g.stop()
				g.store("exesdb.events.s.o-1.created", "", "Nats-Marker-Reason", "MaxAge")
				g.append(7, 1)
				start()
				g.awaitSequences("all", 1, 5, 7)
				g.awaitSequences("typed", 1, 5, 7)
				g.Eventually("the other stream has three", func() bool { return g.last("KEPT") == 3 })
				if n := g.metric("emitter_passed_over_total", "kind=marker"); n == 0 {
					t.Error("no marker is counted")
				}
				if n := g.metric("emitter_malformed_total"); n != 0 || g.logged("is no event") != 0 {
					t.Errorf("%v are malformed", n)
				}
			})
		}
	}
}

func TestMessageThatExpiresLeavesNoEvent(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil)
	g.start()
	g.editStream(groundStream, func(c *jetstream.StreamConfig) {
		c.AllowMsgTTL, c.SubjectDeleteMarkerTTL = true, time.Second
	})
	g.store("exesdb.events.s.o-2.created", `{"n":1}`)
	g.awaitSequences("all", 1) // an emitter leads: what expires before one does is nobody's
	g.store("exesdb.events.s.o-1.created", `{"n":2}`, "Nats-TTL", "1s")
	g.Eventually("the event is a marker now", func() bool { return g.last(groundStream) == 3 })
	g.append(4, 1)
	g.awaitSequences("all", 1, 2, 4)
	if h := g.delivered("all")[1].Header; h.Get("Nats-TTL") != "" {
		t.Errorf("delivered with %v", h)
	}
}

func TestRollUpIsAnEvent(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil)
	g.start()
	g.editStream(groundStream, func(c *jetstream.StreamConfig) { c.AllowRollup = true })
	g.append(1, 1)
	g.awaitDelivered("all", 1)
	g.store("exesdb.events.s.o-1.created", `{"n":2}`, "Nats-Rollup", "sub")
	g.awaitDelivered("all", 2)
}

func TestScheduleIsNoEventAndWhatItStoresIsOne(t *testing.T) {
	t.Parallel()
	for way, follow := range waysToFollow {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			g := newGround(t, nil, byType("reminders", "reminder"), allEvents("all"))
			g.start()
			g.editStream(groundStream, func(c *jetstream.StreamConfig) {
				c.AllowMsgSchedules, c.AllowMsgTTL = true, true
				follow(c)
			})
			const target = "exesdb.events.s.o-1.reminder"
			due := time.Now().Add(1500 * time.Millisecond)
			g.store("exesdb.events.s.o-1.schedule", `{"n":1}`, "Nats-Schedule", "@at "+due.Format(time.RFC3339Nano), "Nats-Schedule-Target", target,
				"Nats-Schedule-TTL", "1h", "ce-type", "reminder", "ce-id", "r1")
			// One that stays, also for who catches up.
			g.store("exesdb.events.s.o-2.schedule", `{"n":9}`, "Nats-Schedule", "@at "+due.Add(time.Hour).Format(time.RFC3339Nano), "Nats-Schedule-Target", target,
				"ce-type", "reminder")
			g.reload(func(c *config.Config) {
				c.Stores[0].Subscriptions = append(c.Stores[0].Subscriptions, allEvents("later"))
			})
			for _, name := range []string{"all", "later", "reminders"} {
				g.awaitSequences(name, 3)
				m := g.delivered(name)[0]
				if stored := time.Now(); stored.Before(due.Truncate(time.Millisecond)) {
					t.Errorf("%s has it at %v, and it is due at %v", name, stored, due)
				}
				if m.Header.Get("ce-id") != "r1" || string(m.Data) != `{"n":1}` {
					t.Errorf("%s got %v, %s", name, m.Header, m.Data)
				}
				for header := range m.Header {
					if len(header) > 5 && header[:5] == "Nats-" {
						t.Errorf("%s got a header %s", name, header)
					}
				}
			}
			g.append(4, 1)
			g.awaitSequences("all", 3, 4)
			g.awaitSequences("later", 3, 4)
			g.awaitSequences("reminders", 3)
			if g.metric("emitter_passed_over_total", "kind=schedule") == 0 || g.metric("emitter_malformed_total") != 0 {
				t.Error("schedules are not counted as such")
			}
		})
	}
}

func TestLateSubscriptionsHaveAllThatWasStoredBefore(t *testing.T) {
	t.Parallel()
	for way, follow := range waysToFollow {
		if way == "without direct gets" {
			continue // it is read one by one
		}
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			g := newGround(t, nil)
			g.start()
			g.editStream(groundStream, follow)
			g.append(1, 1001)
			g.awaitDelivered("all", 1001)
			add := func(subscriptions ...config.Subscription) {
				g.reload(func(c *config.Config) {
					c.Stores[0].Subscriptions = append(c.Stores[0].Subscriptions, subscriptions...)
				})
			}
			add(allEvents("second"))
			g.awaitDelivered("second", 1001)
			add(allEvents("third"), byType("fourth", "created"))
			g.append(1002, 2000)
			for _, name := range []string{"all", "second", "third", "fourth"} {
				g.awaitDelivered(name, 3001)
			}
		})
	}
}
