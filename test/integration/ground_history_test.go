package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/test/harness"
)

// storedIn is a subscription to every event of the store, which a stream of the same name stores.
func storedIn(name string) config.Subscription {
	s := allEvents(name)
	s.Forward = &config.Forward{Sink: "stream", Subject: "stored." + name}
	return s
}

// sinkStream makes the stream that a storedIn subscription needs.
func (g *ground) sinkStream(name string) {
	g.Helper()
	if _, err := g.JS.CreateStream(g.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{"stored." + name}}); err != nil {
		g.Fatal(err)
	}
}

// count is how many messages a stream has.
func (g *ground) count(name string) uint64 {
	g.Helper()
	stream, err := g.JS.Stream(g.Context(), name)
	if err != nil {
		g.Fatal(err)
	}
	return stream.CachedInfo().State.Msgs
}

func (g *ground) backUp() *testbed.Backup {
	g.Helper()
	backup, err := testbed.BackUp(g.Context(), g.NC, groundStream)
	if err != nil {
		g.Fatal(err)
	}
	return backup
}

// restore replaces the store's stream by a backup. Its creation time is another then.
func (g *ground) restore(backup *testbed.Backup) {
	g.Helper()
	before := g.created()
	if err := g.JS.DeleteStream(g.Context(), groundStream); err != nil {
		g.Fatal(err)
	}
	if err := backup.Restore(g.Context(), g.NC); err != nil {
		g.Fatal(err)
	}
	if g.created().Equal(before) {
		g.Fatal("the creation time of the restored stream is that of the one before")
	}
}

func (g *ground) created() time.Time {
	g.Helper()
	stream, err := g.JS.Stream(g.Context(), groundStream)
	if err != nil {
		g.Fatal(err)
	}
	return stream.CachedInfo().Created
}

func TestRestoredStoreIsDeliveredOn(t *testing.T) {
	const n = 1000
	for name, running := range map[string]bool{"stopped meanwhile": false, "running": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGround(t, nil, allEvents("all"), storedIn("OUT"))
			g.sinkStream("OUT")
			g.start()
			g.append(1, n)
			g.awaitDelivered("all", n)
			g.Eventually("all is stored", func() bool { return g.count("OUT") == n })
			if !running {
				g.stop()
			} else {
				g.Eventually("the lease says what proves the history", func() bool { return g.witnessed(n) })
			}
			g.restore(g.backUp())
			if !running {
				g.start()
			}
			g.append(n+1, 1)
			g.awaitDelivered("all", n+1)
			g.Eventually("the next one is stored", func() bool { return g.count("OUT") == n+1 })
			if running {
				g.Eventually("it is seen that the creation time is another", func() bool { return g.logged("has another creation time") > 0 })
			}
			// And once more, by a leader that begins with what the one before has written.
			g.stop()
			g.restore(g.backUp())
			g.start()
			g.append(n+2, 1)
			g.awaitDelivered("all", n+2)
			g.Eventually("the next one is stored", func() bool { return g.count("OUT") == n+2 })
			if again := g.logged("sequences begin anew"); again > 0 {
				t.Errorf("%d lines say that sequences begin anew", again)
			}
		})
	}
}

// witnessed reports whether the lease names the event of that sequence as one that proves the history.
func (g *ground) witnessed(seq int) bool {
	kv, err := g.JS.KeyValue(g.Context(), "exesdb_cluster")
	if err != nil {
		return false
	}
	entry, err := kv.Get(g.Context(), "leader.s")
	if err != nil {
		return false
	}
	return strings.Contains(" "+harness.Decode[struct{ Witness string }](g, entry.Value()).Witness, fmt.Sprintf(" %d@", seq))
}

// What an older backup lacks is lost, and what is stored since is new. Nothing else comes again.
func TestOlderBackupOfAStoreIsDeliveredOn(t *testing.T) {
	for name, running := range map[string]bool{"stopped meanwhile": false, "running": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGround(t, nil)
			g.start()
			g.append(1, 800)
			g.awaitDelivered("all", 800)
			backup := g.backUp()
			g.append(801, 200)
			g.awaitDelivered("all", 1000)
			if running {
				g.Eventually("the lease says what proves the history", func() bool { return g.witnessed(1000) })
			} else {
				g.stop()
			}
			g.restore(backup)
			if !running {
				g.append(1001, 300) // as many as before, and more
				g.start()
			} else {
				g.append(1001, 100)
				g.Eventually("it is seen that it went back", func() bool { return g.logged("went back to an earlier state") > 0 })
				g.append(1101, 200)
			}
			g.awaitDelivered("all", 1300)
		})
	}
}

func TestStoreMadeAnewIsDeliveredFromItsStart(t *testing.T) {
	for name, others := range map[string]int{"as long": 10, "shorter": 4, "longer": 25} {
		for _, running := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", running ", running), func(t *testing.T) {
				t.Parallel()
				g := newGround(t, nil)
				g.start()
				g.append(1, 10)
				g.awaitDelivered("all", 10)
				stream, err := g.JS.Stream(t.Context(), groundStream)
				if err != nil {
					t.Fatal(err)
				}
				if !running {
					g.stop()
				}
				if err := g.JS.DeleteStream(t.Context(), groundStream); err != nil {
					t.Fatal(err)
				}
				if _, err := g.JS.CreateStream(t.Context(), stream.CachedInfo().Config); err != nil {
					t.Fatal(err)
				}
				g.append(11, others)
				if !running {
					g.start()
				}
				g.awaitDelivered("all", 10+others)
			})
		}
	}
}

// clustered starts three servers, and a world on the first of them.
func clustered(t testing.TB) (*world, *testbed.Cluster[*natsnode.Node]) {
	t.Helper()
	cluster, err := testbed.StartNodes(t.Context(), 3, natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Shutdown)
	return attach(t, cluster.Servers[0].URL()), cluster
}

// Each server of a restored R3 may have a creation time of its own.
func TestChangesOfLeaderOfARestoredStoreDeliverNothingAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	t.Parallel()
	w, cluster := clustered(t)
	g := groundOn(w, allEvents("all"), storedIn("OUT"))
	g.sinkStream("OUT")
	g.config.Stores[0].Stream.Replicas, g.config.Registry.Replicas = 3, 3
	g.start()
	const n = 100
	g.append(1, n)
	g.awaitDelivered("all", n)
	g.stop()
	g.restore(g.backUp())
	g.start()
	last := n
	led, created := map[string]bool{}, map[time.Time]bool{}
	for len(led) < 3 {
		leader := g.lead(cluster, led)
		led[leader], created[g.created()] = true, true
		last++
		g.Eventually("the next one is stored", func() bool {
			_, err := g.JS.Publish(t.Context(), "exesdb.events.s.o-1.created", fmt.Appendf(nil, `{"n":%d}`, last), jetstream.WithMsgID(fmt.Sprint(last)))
			return err == nil
		})
		g.awaitDelivered("all", last)
		g.Eventually("the lease says what proves the history", func() bool { return g.witnessed(last) })
	}
	if resets := g.logged("is compared with what was delivered") + g.logged("sequences begin anew"); resets > 0 || g.count("OUT") != uint64(last) {
		t.Errorf("%d resets; OUT has %d of %d", resets, g.count("OUT"), last)
	}
	t.Logf("%d creation times", len(created))
}

// lead makes a server lead the store's stream that has not yet.
func (g *ground) lead(cluster *testbed.Cluster[*natsnode.Node], led map[string]bool) (leader string) {
	g.Helper()
	g.Eventually("another server leads the stream", func() bool {
		stream, err := g.JS.Stream(g.Context(), groundStream)
		if err != nil || stream.CachedInfo().Cluster == nil {
			return false
		}
		if leader = stream.CachedInfo().Cluster.Leader; leader == "" || !led[leader] {
			return leader != ""
		}
		for _, node := range cluster.Servers {
			if !led[node.Name()] {
				body := fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, node.Name())
				_, _ = g.NC.Request("$JS.API.STREAM.LEADER.STEPDOWN."+groundStream, body, time.Second) // asked again
			}
		}
		time.Sleep(100 * time.Millisecond)
		return false
	})
	return leader
}

// Killed as a whole, a cluster that has everything in memory has the stream again with the creation time
// that it had, and nothing in it.
func TestMemoryOfAClusterThatDiedAsAWholeIsDeliveredAnew(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	for name, others := range map[string]int{"fewer": 30, "more": 80} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, cluster := clustered(t)
			g := groundOn(w)
			c := &g.config.Stores[0].Stream
			c.Replicas, c.Storage, g.config.Registry.Replicas, g.config.Registry.Storage = 3, "memory", 3, "memory"
			g.start()
			g.append(1, 50)
			g.awaitDelivered("all", 50)
			g.Eventually("the lease says what proves the history", func() bool { return g.witnessed(50) })
			before := g.created()
			for _, node := range cluster.Servers {
				node.Stop()
			}
			for _, node := range cluster.Servers {
				if err := node.Restart(); err != nil {
					t.Fatal(err)
				}
			}
			if err := cluster.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			last := 50
			g.Eventually("others are stored", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				ack, err := g.JS.Publish(ctx, "exesdb.events.s.o-1.created", fmt.Appendf(nil, `{"n":%d}`, last+1), jetstream.WithMsgID(fmt.Sprint(last+1)))
				if err == nil && !ack.Duplicate {
					last++
				}
				return last == 50+others
			})
			if !g.created().Equal(before) {
				t.Skip("this server gives the stream a new creation time")
			}
			g.awaitDelivered("all", last)
		})
	}
}

func TestMirrorIsAStore(t *testing.T) {
	t.Parallel()
	const n = 5000
	g := newGround(t, nil)
	_, err := g.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORIG", Subjects: []string{"exesdb.events.s.>"}})
	if err != nil {
		t.Fatal(err)
	}
	for from := 1; from <= n; from += 1000 {
		g.append(from, 1000)
	}
	mirror, err := g.JS.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "MIRROR", Mirror: &jetstream.StreamSource{Name: "ORIG"}, AllowDirect: true, RePublish: &jetstream.RePublish{Source: ">", Destination: "mirrored.>"},
	})
	if err != nil {
		t.Fatal(err)
	}
	g.Eventually("the mirror has all", func() bool { info, err := mirror.Info(t.Context()); return err == nil && info.State.Msgs == n })
	g.config.Stores[0].Stream.Name = "MIRROR"
	asked := 0
	sub, err := g.NC.Subscribe("$JS.API.*.MSG.GET.MIRROR", func(*nats.Msg) { asked++ })
	if err != nil {
		t.Fatal(err)
	}
	g.start()
	g.awaitDelivered("all", n)
	g.append(n+1, 1)
	g.awaitDelivered("all", n+1)
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	if asked > 50 {
		t.Errorf("%d messages were asked for one by one", asked)
	}
}

func TestStreamAndCheckpointsThatAreDeletedAreMadeAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer than the rest together")
	}
	t.Parallel()
	g := newGround(t, nil)
	g.start()
	g.append(1, 10)
	g.awaitDelivered("all", 10)
	const key = "s.by_stream.=24all.all"
	g.Eventually("the checkpoint is written", func() bool { return g.checkpoint(key) == 10 })
	for _, name := range []string{groundStream, "KV_exesdb_checkpoints"} {
		if err := g.JS.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	g.Eventually("the stream is there", func() bool { _, err := g.JS.Stream(t.Context(), groundStream); return err == nil })
	g.append(11, 5)
	g.awaitDelivered("all", 15)
	g.Eventually("the checkpoint is written", func() bool { return g.checkpoint(key) == 5 })
	if err := g.JS.DeleteStream(t.Context(), "KV_exesdb_checkpoints"); err != nil {
		t.Fatal(err)
	}
	g.Eventually("the checkpoint is written again, though nothing happens", func() bool { return g.checkpoint(key) == 5 })
}
