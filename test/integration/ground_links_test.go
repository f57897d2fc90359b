package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/test/harness"
)

// over has whoever is started then reach the server over a link.
func (g *ground) over(link testbed.Link) {
	g.Helper()
	relay := harness.NewRelay(g, g.node.URL())
	relay.SetLink(link)
	g.Cleanup(g.stop) // before the relay ends
	g.config.NATS.URL = relay.URL()
}

// Registration, the leader's lease, sessions, old events, new ones and checkpoints, where the emitter and the
// instance are far away, in one process and in two.
func TestEverythingWorksOverARoundTripOfASecond(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		link  testbed.Link
		apart bool
	}{{"emitter hosted", testbed.Link{Delay: 500 * time.Millisecond}, false}, {"emitter apart", testbed.Link{Delay: 200 * time.Millisecond}, true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newGround(t, nil)
			g.start() // which makes the buckets and the store's stream
			g.stop()
			const n = 40
			g.append(1, n)
			g.over(c.link)
			if c.apart {
				emitter := cloned(g.config)
				g.config.Emitter.Enabled = false
				g.start()
				g.emit(emitter)
			} else {
				g.start()
			}
			g.awaitDelivered("all", n)
			g.append(n+1, 1)
			g.awaitDelivered("all", n+1)
			g.Eventually("the checkpoint is that of the last event", func() bool {
				return g.checkpoint("s.by_stream.=24all.all") == n+1
			})
			for _, said := range []string{"slow consumer", "deposed", "can't be followed"} {
				if times := g.logged(said); times > 0 {
					t.Errorf("%d lines say %q", times, said)
				}
			}
		})
	}
}

// Large events over a thin link come as fast as the link carries them, and nobody is disconnected.
func TestLargeEventsComeOverAThinLink(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil)
	g.start()
	g.stop()
	const n, size, rate = 8, 600_000, 1_500_000
	for i := range n {
		g.appendMessage(&nats.Msg{Subject: "exesdb.events.s.o-1.created", Data: fmt.Appendf(nil, `{"n":%d,"text":"%0*d"}`, i+1, size, 0)})
	}
	g.over(testbed.Link{Rate: rate})
	g.start()
	began := time.Now()
	g.awaitDelivered("all", n)
	if took, least := time.Since(began), time.Duration(n*size)*time.Second/rate; took > 2*least+time.Second {
		t.Errorf("%s for what takes %s", took, least)
	}
	if n := g.node.Server().NumSlowConsumers(); n > 0 {
		t.Errorf("%d slow consumers", n)
	}
}
