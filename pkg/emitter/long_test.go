package emitter

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// TestLongCatchUpHasAConsumerWhileItLasts: and where there may be none it is the same, but for the time it
// takes.
func TestLongCatchUpHasAConsumerWhileItLasts(t *testing.T) {
	for name, most := range map[string]int{"unlimited": -1, "none left": 1} {
		t.Run(name, func(t *testing.T) {
			_, js := startJetStream(t)
			stream, err := OpenStream(t.Context(), js, StreamConfig{Store: "s"})
			if err != nil {
				t.Fatal(err)
			}
			already := 0
			if most > 0 {
				already = most
				c := stream.CachedInfo().Config
				if err := js.DeleteStream(t.Context(), c.Name); err != nil {
					t.Fatal(err)
				}
				c.MaxConsumers = most
				if stream, err = js.CreateStream(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				if _, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "another"}); err != nil {
					t.Fatal(err)
				}
			}
			const n = 8000
			for i := range n {
				e := event.Event{Store: "s", Stream: "g", Type: "t", ID: fmt.Sprint(i), Time: time.Now()}
				if _, err := js.PublishMsgAsync(e.Message(event.Subject("s", "g", "t")), jetstream.WithStallWait(patience)); err != nil {
					t.Fatal(err)
				}
			}
			<-js.PublishAsyncComplete()
			run(t, js, Store{Stream: StreamConfig{Store: "s"}})
			h := hold(t, js, by(subscription.ByStream, "$all"))
			consumers := func() int {
				info, err := stream.Info(t.Context())
				if err != nil {
					return -1 // it has other things to do
				}
				return info.State.Consumers - already
			}
			seen := 0
			eventually(t, "all events", func() bool {
				seen = max(seen, consumers())
				time.Sleep(10 * time.Millisecond) // asking must not be what it is busy with
				h.mu.Lock()
				defer h.mu.Unlock()
				return len(h.taken) == n
			})
			if seen > 1 || most > 0 && seen > 0 {
				t.Errorf("%d consumers", seen)
			}
			eventually(t, "no consumer", func() bool { return consumers() == 0 })
			for i, m := range h.taken {
				if m.Header.Get(event.SequenceHeader) != fmt.Sprint(i+1) {
					t.Fatalf("event %d is %s", i+1, m.Header.Get(event.SequenceHeader))
				}
			}
		})
	}
}
