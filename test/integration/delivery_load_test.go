package integration

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/exesdb/subproxy/test/harness"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestTenThousandSubscriptionsOfOneStreamGetTheirEvents: under the server's default limits, which end at
// 1,000 consumers.
func TestTenThousandSubscriptionsOfOneStreamGetTheirEvents(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of subscriptions")
	}
	w := newWorld(t)
	const each = 3
	n := 10_000
	if raceEnabled {
		n = 2_000 // beyond the limit all the same
	}
	c := quiet(t, w.URL, many("s", n))
	c.SubscriptionProxy.VerificationTimeout = 30 * time.Second
	c.Status.SummaryInterval = 100 * time.Millisecond
	w.emit(c)

	subscriber, err := nats.Connect(w.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer subscriber.Close()
	var mu sync.Mutex
	got, total, wrong := map[string][]harness.Receipt{}, 0, 0
	sub, err := subscriber.Subscribe("exesdb.delivered.s.*", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		name := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
		one := harness.Receipt{ID: m.Header.Get("ce-id")}
		if _, err := fmt.Sscan(m.Header.Get("Exesdb-Seq"), &one.Seq); err != nil {
			wrong++
		}
		got[name] = append(got[name], one)
		total++
	})
	if err == nil {
		err = sub.SetPendingLimits(-1, -1)
	}
	if err == nil {
		err = subscriber.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}

	publisher, err := nats.Connect(w.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer publisher.Close()
	js, err := jetstream.New(publisher, jetstream.WithPublishAsyncMaxPending(2000))
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string][]harness.Appended{} // by subscription
	publish := func(round int) {
		futures := make([]jetstream.PubAckFuture, n)
		for i := range n {
			id := fmt.Sprintf("%d-%d", round, i)
			m := &nats.Msg{Subject: fmt.Sprintf("exesdb.events.s.plant-%d.type_%d=3Av1", i%7, i), Header: nats.Header{"ce-id": {id}}, Data: []byte("{}")}
			if futures[i], err = js.PublishMsgAsync(m, jetstream.WithStallWait(harness.Patience)); err != nil {
				t.Fatal(err)
			}
		}
		for i, f := range futures {
			select {
			case ack := <-f.Ok():
				name := fmt.Sprintf("s%05d", i)
				stored[name] = append(stored[name], harness.Appended{Seq: ack.Sequence, ID: fmt.Sprintf("%d-%d", round, i)})
			case err := <-f.Err():
				t.Fatal(err)
			case <-time.After(harness.Patience):
				t.Fatal("no acknowledgement")
			}
		}
	}
	publish(0) // what is there before, for the passes
	w.start(c)
	w.Eventually("the summary to count all as verified", func() bool { return w.verified("s") == n })
	for round := 1; round < each; round++ {
		publish(round)
	}
	defer func() {
		if t.Failed() {
			t.Logf("%d of %d events delivered", total, n*each)
		}
	}()
	for had := -1; ; { // it may take long; it must not stop
		mu.Lock()
		now := total
		mu.Unlock()
		if now >= n*each {
			break
		}
		if now == had {
			t.Fatalf("nothing delivered within %s", harness.Patience)
		}
		had = now
		for deadline := time.Now().Add(harness.Patience); now == had && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			mu.Lock()
			now = total
			mu.Unlock()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	for info := range w.JS.ListStreams(ctx).Info() {
		if info.State.Consumers > 0 {
			t.Errorf("stream %s has %d consumers", info.Config.Name, info.State.Consumers)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for name, store := range stored {
		if v := harness.Judge(harness.Anything, store, got[name], harness.Allowed{}); !v.Ok() {
			t.Fatalf("%s: %v", name, v)
		}
	}
	if total != n*each || wrong > 0 {
		t.Errorf("%d events were delivered, want %d; %d without a sequence", total, n*each, wrong)
	}
}
