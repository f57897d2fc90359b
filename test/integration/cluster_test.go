package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/test/harness"
)

func TestElectionOfTheBucketsLeaderReregistersEverything(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	t.Parallel()
	cluster, err := testbed.StartNodes(t.Context(), 3, natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Shutdown)
	home := cluster.Servers[0] // keeps the instance and the test connected throughout
	w := attach(t, home.URL())
	const n = 100
	c := quiet(t, home.URL(), many("s", n), many("other", n))
	c.Registry.Replicas = 3
	c.SubscriptionProxy.EnableExponentialBackoff = true
	c.SubscriptionProxy.MaxBackoffInterval = harness.Never
	i := w.start(c)
	var records map[string]harness.Record
	defer func() {
		if t.Failed() {
			for key, r := range records {
				t.Logf("last read: %s %+v", key, r)
			}
		}
	}()
	all := func(cause string, since uint64) bool {
		records = w.Records()
		for _, r := range records {
			if r.Cause != cause || r.Revision <= since || r.Owner.ID != i.Owner().ID || r.Incarnation != 1 {
				return false
			}
		}
		return len(records) == 2*n
	}
	verified := func() {
		t.Helper()
		w.awaitVerified("s", n, 1)
		w.awaitVerified("other", n, 1)
	}
	verified()
	if config := w.Stream().CachedInfo().Config; config.Replicas != 3 {
		t.Errorf("the bucket has %d replicas, want 3", config.Replicas)
	}

	since := w.Stream().CachedInfo().State.LastSeq
	w.Publish(harness.LeaderChanged, `{"term":2}`)
	w.Eventually("everything registered after the stores' leader change", func() bool { return all("leader_changed", since) })
	verified()

	leader := w.leaderBesides(cluster, home)
	verified()
	since = w.Stream().CachedInfo().State.LastSeq
	heard := len(w.Heard(harness.LeaderChanged))
	leader.Stop()
	next, err := cluster.StreamLeader(t.Context(), w.JS, harness.BucketStream)
	if err != nil {
		t.Fatal(err)
	}
	if next.Name() == leader.Name() {
		t.Fatalf("%s leads still", next.Name())
	}
	w.Eventually("everything registered because of the election, the timers being hours away", func() bool { return all("leader_changed", since) })
	verified()
	if text := w.announced(heard); !strings.Contains(text, harness.BucketStream) {
		t.Errorf("the election was announced as %q, want a reason that names %s", text, harness.BucketStream)
	}

	if err := leader.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := cluster.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	since = w.Stream().CachedInfo().State.LastSeq
	w.Publish(harness.LeaderChanged, `{"term":3}`)
	w.Eventually("everything registered with all nodes back", func() bool { return all("leader_changed", since) })
	verified()
	i.stop()
	if left := w.Records(); len(left) > 0 {
		t.Errorf("%d records left", len(left))
	}
}

// leaderBesides makes another node than this one lead the bucket, and is that node.
func (w *world) leaderBesides(cluster *testbed.Cluster[*natsnode.Node], home *natsnode.Node) (leader *natsnode.Node) {
	w.Helper()
	w.Eventually("another node leads the bucket", func() bool {
		var err error
		if leader, err = cluster.StreamLeader(w.Context(), w.JS, harness.BucketStream); err != nil {
			w.Fatal(err)
		}
		if leader != home {
			return true
		}
		// Refused while there is no leader; then it is asked for again.
		_, _ = w.NC.Request("$JS.API.STREAM.LEADER.STEPDOWN."+harness.BucketStream, nil, time.Second)
		return false
	})
	return leader
}

// announced is the first leader change since then that carries a message id, as those of the bridge do.
func (w *world) announced(from int) (text string) {
	w.Helper()
	w.Eventually("hear the election announced", func() bool {
		for _, m := range w.Heard(harness.LeaderChanged)[from:] {
			if strings.Contains(string(m.Data), `"id":`) {
				text = string(m.Data)
				return true
			}
		}
		return false
	})
	return text
}
