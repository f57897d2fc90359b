package integration

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/test/harness"
)

// TestTenThousandBlockedSubscriptionsHoldLittle has nobody there for 10,000 subscriptions that want every
// event, while the stream grows. What that takes in memory does not grow with it, and one whose subscriber
// is there gets everything.
func TestTenThousandBlockedSubscriptionsHoldLittle(t *testing.T) {
	if testing.Short() {
		t.Skip("10,000 subscriptions")
	}
	w := deafWorld(t) // one that heard everything would be what takes the memory
	n := 10_000
	if raceEnabled {
		n = 1000 // the detector watches nats-server's code too
	}
	s := store("greenhouse", config.Subscription{Name: "lively", Type: "by_stream", Selector: "$all", Forward: &config.Forward{Sink: "request", Subject: "app.lively", Timeout: harness.Patience, MaxDeliver: 5}})
	for i := range n {
		s.Subscriptions = append(s.Subscriptions, config.Subscription{
			Name: fmt.Sprintf("blocked-%d", i), Type: "by_stream", Selector: "$all",
			Forward: &config.Forward{Sink: "request", Subject: fmt.Sprintf("app.nobody.%d", i), Timeout: harness.Patience, MaxDeliver: 5},
		})
	}
	c := quiet(t, w.URL, s)
	w.start(c)
	w.emit(c)
	progress, err := w.NC.SubscribeSync("exesdb.emitter.progress.greenhouse")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	last := 0
	lively, err := w.NC.Subscribe("app.lively", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Sscan(m.Header.Get(event.SequenceHeader), &last)
		_ = m.Respond(nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := lively.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}
	grow := func(events, until int) uint64 {
		t.Helper()
		data := strings.Repeat("x", 1000)
		for range events {
			w.Publish("exesdb.events.greenhouse.g.t", data)
		}
		w.Eventually(fmt.Sprintf("the lively one has %d events", until), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return last == until
		})
		for behind := 0; behind < n; {
			m, err := progress.NextMsg(harness.Patience)
			if err != nil {
				t.Fatal(err)
			}
			p := harness.Decode[event.Progress](t, m.Data)
			if p.Part == 1 {
				behind = 0
			}
			if p.LastSequence == uint64(until) {
				behind += len(p.Behind)
			}
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := grow(500, 500)
	after := grow(5000, 5500)
	t.Logf("heap with %d blocked, of 500 events %d MiB, of 5,500 %d MiB", n, before>>20, after>>20)
	if more := uint64(64 << 20); after > before+more {
		t.Errorf("5,000 events more took %d MiB more", (after-before)>>20)
	}
}

// deafWorld is a world that hears nothing but what it asks for.
func deafWorld(t *testing.T) *world {
	t.Helper()
	node, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Shutdown)
	return &world{World: harness.Connect(t, node.URL()), node: node}
}
