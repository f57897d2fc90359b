package integration

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/test/harness"
)

// TestUnfitBucketsAreOneStartUpError has every bucket as other clients make it by default, with a TTL and
// little room, and a parked stream that reads nothing.
func TestUnfitBucketsAreOneStartUpError(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil)
	for _, name := range []string{"exesdb_subscriptions", "exesdb_cluster", "exesdb_checkpoints"} {
		if _, err := g.JS.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: name, History: 5, TTL: 10 * time.Second, MaxBytes: 100}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "EXESDB_PARKED", Subjects: []string{"exesdb.parked.>"}}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	err := g.tryStart()
	var missing *kv.MissingSettingError
	if !errors.As(err, &missing) || !errors.Is(err, deadletter.ErrWrongStream) || time.Since(began) > 10*time.Second {
		t.Fatalf("started with %v", err)
	}
	for _, text := range []string{
		"nats stream edit KV_exesdb_subscriptions --max-msgs-per-subject=1 --allow-msg-ttl --subject-del-markers-ttl=1h --republish-source='$KV.exesdb_subscriptions.>' --republish-destination='exesdb.registry.>' --max-age=0s --max-bytes=",
		"nats stream edit KV_exesdb_cluster --max-msgs-per-subject=1 --allow-msg-ttl --subject-del-markers-ttl=1h --republish-source='$KV.exesdb_cluster.>' --republish-destination='exesdb.cluster.state.>' --max-age=0s --max-bytes=",
		"nats stream edit KV_exesdb_checkpoints --max-msgs-per-subject=1 --max-age=0s --max-bytes=",
		"nats stream edit EXESDB_PARKED --allow-direct",
	} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q is not in\n%v", text, err)
		}
	}
	// With what the commands do it starts.
	for _, name := range []string{"subscriptions", "cluster", "checkpoints"} {
		g.editStream("KV_exesdb_"+name, func(c *jetstream.StreamConfig) {
			c.MaxMsgsPerSubject, c.MaxAge, c.MaxBytes = 1, 0, 1<<20
			if name == "checkpoints" {
				return
			}
			c.AllowMsgTTL, c.SubjectDeleteMarkerTTL = true, time.Hour
			c.RePublish = &jetstream.RePublish{Source: "$KV.exesdb_" + name + ".>", Destination: "exesdb.registry.>"}
			if name == "cluster" {
				c.RePublish.Destination = "exesdb.cluster.state.>"
			}
		})
	}
	g.editStream("EXESDB_PARKED", func(c *jetstream.StreamConfig) { c.AllowDirect = true })
	g.start()
	g.append(1, 10)
	g.awaitDelivered("all", 10)
}

func TestDeletedBucketsAreMadeAnewAfterAPauseAndProven(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil)
	g.start()
	g.append(1, 5)
	g.awaitDelivered("all", 5)
	for i, name := range []string{"exesdb_subscriptions", "exesdb_checkpoints", "exesdb_cluster"} {
		if err := g.JS.DeleteKeyValue(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		deleted := time.Now()
		g.append(6+i, 1) // the bucket of checkpoints is found gone by writing
		g.Eventually(name+" is proven", func() bool {
			stream, err := g.JS.Stream(t.Context(), "KV_"+name)
			if err != nil {
				return false
			}
			m, err := stream.GetLastMsgForSubject(t.Context(), "$KV."+name+".proof")
			if err != nil {
				return false
			}
			if pause := stream.CachedInfo().Created.Sub(deleted); pause < 90*time.Millisecond {
				t.Errorf("%s was made anew %v after its deletion", name, pause)
			}
			if len(m.Data) > 0 || m.Header.Get("KV-Operation") != "DEL" {
				t.Errorf("its proof is %v %q", m.Header, m.Data)
			}
			return true
		})
		g.awaitDelivered("all", 6+i)
	}
	g.AwaitStatus("s.all", "healthy and registered anew", func(s harness.Status) bool { return s.Health == "healthy" && s.Verified })
	g.Eventually("the checkpoint is there again", func() bool { return g.checkpoint("s.by_stream.=24all.all") == 8 })
}

func TestBridgedStreamOfOneReplicaIsWarnedOf(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil)
	if _, err := g.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}}); err != nil {
		t.Fatal(err)
	}
	g.config.Bridge.Streams = []config.BridgeStream{{Stream: "ORDERS", Store: groundStore, Event: "leader_changed"}}
	g.start()
	g.Eventually("the bridge is warned of", func() bool { return g.logged("stream ORDERS has one replica") == 1 })
	next := *g.config // as after SIGHUP, which reads another
	next.Bridge.Streams = []config.BridgeStream{{Stream: "OTHER", Store: groundStore, Event: "leader_changed"}}
	if err := g.instance.Reload(&next); err != nil {
		t.Fatal(err)
	}
	g.Eventually("the new bridge is warned of", func() bool { return g.logged("there is no stream OTHER") == 1 })
}
