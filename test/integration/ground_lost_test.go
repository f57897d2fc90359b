package integration

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/test/harness"
)

// gapStatus is what a status, an alert and a progress say of a gap.
type gapStatus struct {
	Name      string `json:"name"`
	Health    string `json:"health"`
	Level     string `json:"level"`
	Message   string `json:"message"`
	LastError string `json:"last_error"`
	Gap       *gap   `json:"gap"`

	Gaps map[string]gap `json:"gaps"`
}

type gap struct {
	Events, From, To uint64
	At               time.Time
}

// said are the messages below a subject, oldest first.
func (g *ground) said(subject string) (all []gapStatus) {
	g.Helper()
	for _, m := range g.Heard(subject) {
		all = append(all, harness.Decode[gapStatus](g, m.Data))
	}
	return all
}

// gapAlerts are the warnings of a subscription that say that something is gone.
func (g *ground) gapAlerts(name string) (all []gapStatus) {
	for _, a := range g.said("exesdb.proxy.alert.s." + name) {
		if a.Level == "warning" && strings.Contains(a.Message, "removed") {
			all = append(all, a)
		}
	}
	return all
}

// awaitGap waits until log, alert, counter, progress and status say what a subscription lost.
func (g *ground) awaitGap(name string, from, to uint64) {
	g.Helper()
	span := fmt.Sprintf("between sequences %d and %d", from, to)
	g.Eventually(fmt.Sprintf("%s has lost what is %s, says the status", name, span), func() bool {
		all := g.said("exesdb.proxy.status.s." + name)
		if len(all) == 0 {
			return false
		}
		s := all[len(all)-1]
		return s.Health == "degraded" && s.Gap != nil && s.Gap.From == from && s.Gap.To == to && s.Gap.Events == to-from+1 && strings.Contains(s.LastError, span)
	})
	g.Eventually("an alert says so", func() bool { return len(g.gapAlerts(name)) > 0 })
	if alerts := g.gapAlerts(name); len(alerts) != 1 || !strings.Contains(alerts[0].Message, span) {
		g.Errorf("%d alerts, of which the last is %+v; wanted one with %s", len(alerts), alerts[len(alerts)-1], span)
	}
	told := false
	for _, m := range g.Heard("exesdb.emitter.progress.s") {
		if p := harness.Decode[gapStatus](g, m.Data); p.Gaps[name].From == from && p.Gaps[name].To == to {
			told = true
		}
	}
	if !told {
		g.Error("no progress has it")
	}
	if n := g.logged(fmt.Sprintf("from=%d to=%d", from, to)); n != 1 {
		g.Errorf("%d lines in the log", n)
	}
}

// awaitNoGap gives what is wrong time to be said, and looks that nothing is.
func (g *ground) awaitNoGap() {
	g.Helper()
	g.append(1000, 1)
	last := g.last(groundStream)
	g.Eventually("the emitter has told of the last event", func() bool {
		all := g.Heard("exesdb.emitter.progress.s")
		return len(all) > 0 && harness.Decode[struct {
			Last uint64 `json:"last_seq"`
		}](g, all[len(all)-1].Data).Last == last
	})
	if n := g.metric("emitter_gone_total"); n != 0 || g.logged("were removed") != 0 {
		g.Errorf("%v are said to be gone", n)
	}
}

// goneWays are the ways in which what was not delivered yet is removed, so that the stream begins with the
// sequence.
var goneWays = map[string]func(g *ground, first uint64){
	"max_msgs": func(g *ground, first uint64) {
		g.editStream(groundStream, func(c *jetstream.StreamConfig) { c.MaxMsgs = int64(g.last(groundStream) - first + 1) })
	},
	"purge": func(g *ground, first uint64) {
		s, err := g.JS.Stream(g.Context(), groundStream)
		if err == nil {
			err = s.Purge(g.Context(), jetstream.WithPurgeSequence(first))
		}
		if err != nil {
			g.Fatal(err)
		}
	},
	"deletion": func(g *ground, first uint64) {
		s, err := g.JS.Stream(g.Context(), groundStream)
		for n := g.firstOf(groundStream); n < first && err == nil; n++ {
			err = s.DeleteMsg(g.Context(), n)
		}
		if err != nil {
			g.Fatal(err)
		}
	},
}

func (g *ground) firstOf(stream string) uint64 {
	g.Helper()
	s, err := g.JS.Stream(g.Context(), stream)
	if err != nil {
		g.Fatal(err)
	}
	return s.CachedInfo().State.FirstSeq
}

func TestEventsThatAreGoneAfterAStopAreSaidOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer than the rest together")
	}
	t.Parallel()
	for way, remove := range goneWays {
		for _, apart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, apart %t", way, apart), func(t *testing.T) {
				t.Parallel()
				g := newGround(t, nil)
				start := g.start
				if apart {
					start = g.startApart
				}
				start()
				g.append(1, 10)
				g.awaitDelivered("all", 10)
				g.stop()
				g.append(11, 20)
				remove(g, 26)
				g.reloadStopped(func(c *config.Config) {
					c.Stores[0].Subscriptions = append(c.Stores[0].Subscriptions, allEvents("new")) // for which nothing is gone
				})
				start()
				g.awaitSequences("all", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 26, 27, 28, 29, 30)
				g.awaitSequences("new", 26, 27, 28, 29, 30)
				g.awaitGap("all", 11, 25)
				if n := g.metric("emitter_gone_total"); n != 15 {
					t.Errorf("%v are counted", n)
				}
				if n := len(g.gapAlerts("new")); n != 0 {
					t.Errorf("%d alerts about the new one", n)
				}
				// The next run knows it, and does not find it again.
				g.stop()
				before := len(g.gapAlerts("all"))
				start()
				g.append(31, 1)
				g.awaitSequences("all", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 26, 27, 28, 29, 30, 31)
				g.Eventually("the status still says so", func() bool {
					all := g.said("exesdb.proxy.status.s.all")
					return all[len(all)-1].Gap != nil && len(g.gapAlerts("all")) > before
				})
				if n := g.metric("emitter_gone_total"); n != 0 {
					t.Errorf("%v are counted again", n)
				}
				// An operator has seen it.
				g.Ask("restart", `{"store":"s","name":"all"}`, func(answers []harness.Answer) bool { return len(answers) > 0 })
				g.Eventually("it is resolved", func() bool {
					all := g.said("exesdb.proxy.alert.s.all")
					return all[len(all)-1].Level == "resolved"
				})
			})
		}
	}
}

// reloadStopped changes the configuration of the next run.
func (g *ground) reloadStopped(change func(*config.Config)) { change(g.config) }

func TestEventsThatAreGoneWhileItsSubscriberIsSilentAreSaid(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer than the rest together")
	}
	t.Parallel()
	for way, follow := range waysToFollow {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s := allEvents("all")
			s.Forward = &config.Forward{Sink: "request", Subject: "app.in", Timeout: 10 * time.Second, MaxDeliver: 5}
			g := newGround(t, nil, s)
			g.start()
			g.editStream(groundStream, func(c *jetstream.StreamConfig) { follow(c) })
			var silent atomic.Bool
			var last atomic.Int64
			sub, err := g.NC.Subscribe("app.in", func(m *nats.Msg) {
				n, err := strconv.ParseInt(m.Header.Get("Exesdb-Seq"), 10, 64)
				if err != nil {
					t.Error(err)
				}
				for silent.Load() {
					time.Sleep(time.Millisecond)
				}
				last.Store(n)
				if err := m.Respond(nil); err != nil {
					t.Error(err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { silent.Store(false); _ = sub.Drain() })
			g.append(1, 10)
			g.Eventually("the first ten", func() bool { return last.Load() == 10 })
			silent.Store(true)
			const n = 400 // of which the emitter keeps 256 in memory
			big := strings.Repeat("x", 128<<10)
			for range n {
				g.store("exesdb.events.s.o-1.created", big)
			}
			goneWays["purge"](g, n+11-20)
			g.Eventually("the stream begins later", func() bool { return g.firstOf(groundStream) > n-20 })
			silent.Store(false)
			g.Eventually("the last event", func() bool { return last.Load() == n+10 })
			g.Eventually("something is gone", func() bool { return g.metric("emitter_gone_total") > 0 && len(g.gapAlerts("all")) > 0 })
			if got := len(g.gapAlerts("all")); got != 1 || g.logged("before subscriptions had them") != 1 {
				t.Errorf("%d alerts, %d lines", got, g.logged("before subscriptions had them"))
			}
		})
	}
}

func TestEventsThatAreAllGoneAreSaid(t *testing.T) {
	t.Parallel()
	for way, follow := range waysToFollow {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			g := newGround(t, nil)
			g.start()
			g.editStream(groundStream, follow)
			g.append(1, 10)
			g.awaitDelivered("all", 10)
			g.stop()
			g.append(11, 20)
			g.editStream(groundStream, func(c *jetstream.StreamConfig) { c.MaxAge, c.Duplicates = 500*time.Millisecond, 500*time.Millisecond })
			g.Eventually("all expired", func() bool { return g.firstOf(groundStream) == 31 })
			g.editStream(groundStream, func(c *jetstream.StreamConfig) { c.MaxAge = 0 })
			g.start()
			g.awaitGap("all", 11, 30)
			g.append(31, 1)
			g.awaitSequences("all", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 31)
		})
	}
}

func TestPausedSubscriptionHoldsAtTheGapUntilAnOperatorLetsItGoOn(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"restart", "reload"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s := allEvents("all")
			s.Forward = &config.Forward{Sink: "publish", Subject: "exesdb.delivered.s.all", Timeout: time.Second, MaxDeliver: 5, OnGap: "pause"}
			g := newGround(t, nil, s, allEvents("other"))
			g.start()
			g.append(1, 10)
			g.awaitDelivered("all", 10)
			g.awaitDelivered("other", 10)
			g.stop()
			g.append(11, 20)
			goneWays["purge"](g, 26)
			hold := func() {
				g.start()
				g.awaitGap("all", 11, 25)
				g.awaitSequences("other", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 26, 27, 28, 29, 30)
				g.awaitSequences("all", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
				g.AwaitStatus("s.all", "says why it holds", func(s harness.Status) bool {
					return s.Health == "degraded" && strings.Contains(s.LastError, "subproxy restart s all")
				})
			}
			hold()
			switch how {
			case "restart":
				g.Ask("restart", `{"store":"s","name":"all"}`, func(answers []harness.Answer) bool { return len(answers) > 0 })
			case "reload":
				g.reload(func(c *config.Config) { c.Stores[0].Subscriptions[0].Forward.OnGap = "continue" })
			}
			g.awaitSequences("all", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 26, 27, 28, 29, 30)
			g.AwaitStatus("s.all", "is well", func(s harness.Status) bool { return s.Health == "healthy" })
			g.append(31, 1)
			g.awaitSequences("all", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 26, 27, 28, 29, 30, 31)
		})
	}
}

func TestWhatAlimitPerSubjectDropsIsNoGap(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil)
	g.start()
	g.append(1, 3)
	g.awaitDelivered("all", 3)
	g.stop()
	g.store("exesdb.events.s.o-2.created", `{"n":4}`) // it stays, and so does the stream's beginning
	g.editStream(groundStream, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 })
	g.append(5, 20)
	g.start()
	g.awaitSequences("all", 1, 2, 3, 4, 24)
	g.awaitNoGap()
	if g.metric("emitter_holes_total") == 0 {
		t.Error("the holes are not counted")
	}
}
