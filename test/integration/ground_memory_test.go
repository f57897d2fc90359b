package integration

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/config"
)

// TestGroundMemoryOfWaitingEventsIsBounded: 200 subscribers are away, and what waits for them does not fit
// the instance's memory twenty times over. It is held within the bound, sent again to nobody, and delivered
// when they come; subscriptions beside go on meanwhile.
func TestGroundMemoryOfWaitingEventsIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("much memory")
	}
	t.Parallel()
	for name, apart := range map[string]bool{"hosted emitter": false, "emitter apart": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const subscriptions, size, events, memory = 200, 100 << 10, 3, 1 << 20
			all := []config.Subscription{allEvents("well"), requesting("asked")}
			for n := range subscriptions {
				s := requesting(fmt.Sprintf("r%d", n))
				s.Forward.Subject = fmt.Sprintf("away.%d", n)
				all = append(all, s)
			}
			g := newGround(t, nil, all...)
			g.config.Delivery.Memory = memory
			if apart {
				g.config.Emitter.Enabled = false
				g.emit(g.config)
			}
			var mu sync.Mutex
			got := map[string][]int{}
			count := func(subject string) int {
				mu.Lock()
				defer mu.Unlock()
				return len(got[subject])
			}
			accept := func(m *nats.Msg) {
				n, _ := strconv.Atoi(m.Header.Get("Exesdb-Seq"))
				mu.Lock()
				got[m.Subject] = append(got[m.Subject], n)
				mu.Unlock()
				_ = m.Respond(nil)
			}
			if _, err := g.NC.Subscribe("in.asked", accept); err != nil {
				t.Fatal(err)
			}
			g.start()
			most := 0.0
			held := func() { most = max(most, float64(g.instance.Queued())) }
			for n := range events {
				g.large(n+1, size)
				g.Eventually("those beside have it", func() bool { held(); return len(g.delivered("well")) == n+1 && count("in.asked") == n+1 })
			}
			g.Eventually("they are tried again and again", func() bool { held(); return g.metric("forward_errors_total") > 6*subscriptions })
			before, at := g.sent(), time.Now()
			g.append(events+1, 5)
			g.Eventually("those beside go on", func() bool { held(); return len(g.delivered("well")) == events+5 && count("in.asked") == events+5 })
			g.Eventually("a second has passed", func() bool { held(); return time.Since(at) > time.Second })
			if n := g.sent() - before; n > 8<<20 {
				t.Errorf("%d bytes were sent in %v", n, time.Since(at))
			}
			if _, err := g.NC.Subscribe("away.*", accept); err != nil {
				t.Fatal(err)
			}
			g.Eventually("all have all", func() bool {
				held()
				for n := range subscriptions {
					if count(fmt.Sprintf("away.%d", n)) < events+5 {
						return false
					}
				}
				return true
			})
			mu.Lock()
			defer mu.Unlock()
			for subject, sequences := range got {
				for i, n := range sequences {
					if n != i+1 {
						t.Fatalf("%s got %v", subject, sequences)
					}
				}
			}
			if limit := float64(memory); most > limit {
				t.Errorf("%.0f bytes were held, of %.0f", most, limit)
			}
			if n := g.logged("no memory for more events"); n > 2 {
				t.Errorf("it is said %d times", n)
			}
		})
	}
}
