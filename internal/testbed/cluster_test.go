package testbed_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/testbed"
)

func startCluster(t testing.TB, size int) *testbed.Cluster[*natsnode.Node] {
	t.Helper()
	began := time.Now()
	c, err := testbed.StartNodes(within(t), size, natsnode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d nodes ready after %s", size, time.Since(began).Round(time.Millisecond))
	t.Cleanup(c.Shutdown)
	return c
}

func TestNewClusterAcceptsReplicatedStreamsAtEveryNode(t *testing.T) {
	for _, size := range []int{1, 3} {
		c := startCluster(t, size)
		for _, n := range c.Servers {
			_, js := connect(t, n.URL())
			createStream(t, js, "s"+n.Name(), size)
		}
	}
	if _, err := testbed.StartNodes(within(t), 0, natsnode.Options{}); err == nil {
		t.Error("a cluster of no nodes started")
	}
}

func TestClusterSurvivesItsStreamLeader(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	c := startCluster(t, 3)
	_, js := connect(t, c.URLs())
	createStream(t, js, "s", 3)
	publish(t, js, "s.a")
	leader, err := c.StreamLeader(within(t), js, "s")
	if err != nil {
		t.Fatal(err)
	}
	leader.Stop()
	next, err := c.StreamLeader(within(t), js, "s")
	if err != nil || next == leader {
		t.Fatalf("next leader %v, %v", next, err)
	}
	if err := c.WaitReady(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := leader.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(within(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if routes := leader.Server().NumRoutes(); routes == 0 || !leader.Server().JetStreamIsStreamCurrent("$G", "s") {
			return errors.New("the restarted node is not current")
		}
		return nil
	})
	wantMessages(t, js, "s", 1)
}

func TestStreamLeaderGivesUpWithItsContext(t *testing.T) {
	c := startCluster(t, 1)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, js := connect(t, c.URLs())
	_, err := c.StreamLeader(ctx, js, "none")
	wantErr(t, err, context.Canceled)
}

func start(t testing.TB) *natsnode.Node {
	t.Helper()
	n, err := natsnode.Start(natsnode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Shutdown)
	return n
}
