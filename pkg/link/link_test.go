package link_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect is a connection over a relay, and a subject on which requests are answered beside the server.
func connect(t *testing.T, l testbed.Link) (*nats.Conn, *testbed.Relay) {
	t.Helper()
	server, err := testbed.StartNodes(t.Context(), 1, natsnode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	relay, err := testbed.NewRelay(server.URLs(), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(relay.Close)
	near, err := nats.Connect(server.URLs())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(near.Close)
	if _, err := near.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Subscribe("mute", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	if err := near.Flush(); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(relay.URL(), nats.Timeout(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, relay
}

func TestALinkIsOneForAllWhoAsk(t *testing.T) {
	t.Parallel()
	nc, _ := connect(t, testbed.Link{})
	if first, again := link.Of(nc), link.Of(nc); first != again {
		t.Fatal("two")
	}
}

func TestARequestIsAnsweredOverAWayThatBecomesLong(t *testing.T) {
	t.Parallel()
	nc, relay := connect(t, testbed.Link{})
	l := link.Of(nc)
	for range 20 {
		if _, err := l.Request(t.Context(), "echo", nil, time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if p := l.Patience(0); p > 500*time.Millisecond {
		t.Fatalf("%s on loopback", p)
	}
	relay.SetLink(testbed.Link{Delay: 300 * time.Millisecond})
	for range 3 {
		if _, err := l.Request(t.Context(), "echo", nil, time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if p := l.Patience(0); p < 600*time.Millisecond {
		t.Fatalf("%s for a round trip of 600 ms", p)
	}
}

func TestARequestThatNobodyAnswersEnds(t *testing.T) {
	t.Parallel()
	nc, _ := connect(t, testbed.Link{})
	began := time.Now()
	_, err := link.Of(nc).Request(t.Context(), "mute", nil, 50*time.Millisecond)
	if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took < 50*time.Millisecond || took > 5*time.Second {
		t.Fatalf("%v after %s", err, took)
	}
}

func TestWhatIsAbandonedCountsUntilItHasArrived(t *testing.T) {
	t.Parallel()
	nc, relay := connect(t, testbed.Link{})
	l := link.Of(nc)
	relay.Stall()
	ctx, cancel := context.WithCancel(t.Context())
	first, err := l.Take(ctx, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	second := l.TryTake(t.Context(), 64<<20)
	if second == nil || first.Bytes+second.Bytes > l.Carries() {
		t.Fatalf("%d, then %v of %d", first.Bytes, second, l.Carries())
	}
	cancel() // which abandons the first
	waiting, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if _, err := l.Take(waiting, 1<<20); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v while the link is stalled", err)
	}
	relay.Flow()
	third, err := l.Take(t.Context(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	second.Arrived(second.Bytes)
	third.Arrived(third.Bytes)
}

func TestAGrantWhoseContextHasEndedIsGivenBack(t *testing.T) {
	t.Parallel()
	nc, _ := connect(t, testbed.Link{})
	l := link.Of(nc)
	ended, end := context.WithCancel(t.Context())
	end()
	for range 200 {
		if g := l.TryTake(ended, 1); g != nil && g.Bytes != 1 {
			t.Fatalf("%d bytes", g.Bytes)
		}
	}
	// All of it is there again.
	for want := l.Carries(); want > 0; {
		g, err := l.Take(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Abandon()
		want -= g.Bytes
	}
}
