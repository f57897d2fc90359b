package integration

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/service"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/test/harness"
)

// longNames are subscriptions to everything, with names of so many bytes.
func longNames(n, length int) (all []config.Subscription) {
	for i := range n {
		name := fmt.Sprintf("n%d-", i)
		all = append(all, allEvents(name+strings.Repeat("x", length-len(name))))
	}
	return all
}

// restartEmitter has another emitter in place of the one that runs, beside the same instance.
func (g *ground) restartEmitter() {
	g.Helper()
	if err := g.emitter.Stop(g.Context()); err != nil {
		g.Fatal(err)
	}
	var err error
	g.emitter, err = service.StartEmitter(g.Context(), service.EmitterOptions{
		Config: g.config, Logger: slog.New(slog.NewTextHandler(g.log, nil)), Metrics: emitter.NewMetrics(prometheus.NewRegistry()),
		Beside: g.instance, StartTimeout: 20 * time.Second,
	})
	if err != nil {
		g.Fatal(err)
	}
}

func TestEverythingIsCutToWhatTheServerTakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limit     int32
		n, length int
	}{{4096, 60, 60}, {4096, 60, 400}, {65536, 600, 110}} {
		t.Run(fmt.Sprintf("%d of %d bytes in %d", c.n, c.length, c.limit), func(t *testing.T) {
			t.Parallel()
			subscriptions := longNames(c.n, c.length)
			g := newGround(t, func(o *server.Options) { o.MaxPayload = c.limit }, subscriptions...)
			g.start()
			g.append(1, 1)
			everywhere := func(seq uint64) {
				t.Helper()
				g.Eventually("every subscription has each event once", func() bool {
					counts := map[string]int{}
					for _, m := range g.Heard("exesdb.delivered.s.") {
						counts[m.Subject]++
					}
					for _, n := range counts {
						if n != int(seq) {
							return false
						}
					}
					return len(counts) == c.n
				})
				for _, s := range subscriptions {
					g.Eventually(s.Name+" has its checkpoint", func() bool { return g.checkpoint("s.by_stream.=24all."+s.Name) == seq })
				}
			}
			everywhere(1)
			for _, outcome := range []string{"unreadable", "missing", "wrong_owner"} {
				if n := g.metric("verifications_total", "outcome="+outcome); n > 0 {
					t.Errorf("%v verifications were %s", n, outcome)
				}
			}
			instances, statuses, err := control.NewClient(g.NC).Statuses(t.Context(), control.Request{})
			if err != nil || len(instances) != 1 || len(statuses) != c.n {
				t.Fatalf("%d instances, %d statuses, %v", len(instances), len(statuses), err)
			}
			for _, st := range statuses {
				if st.Health != "healthy" || !st.Verified || st.ConsecutiveFailures > 0 {
					t.Fatalf("%s is %s, %s", st.Name, st.Health, st.LastError)
				}
			}
			answers, err := control.NewClient(g.NC).Request(t.Context(), control.Reregister, control.Request{})
			if err != nil || len(answers) != 1 || answers[0].Verified != c.n || len(answers[0].Proxies) == 0 {
				t.Fatalf("reregistered: %+v, %v", answers, err)
			}
			listed := map[string]bool{}
			g.Ask("list", "", func(all []harness.Answer) bool {
				for _, a := range all {
					for _, p := range a.Proxies {
						listed[p.Name] = true
					}
				}
				return len(listed) == c.n
			})
			g.restartEmitter()
			g.append(2, 1)
			everywhere(2)
			if n := g.logged("maximum payload exceeded"); n > 0 {
				t.Errorf("%d lines say that something is too large", n)
			}
		})
	}
}

// TestAnswerThatCannotBeSentIsAnError has a status that is larger than a message by itself.
func TestAnswerThatCannotBeSentIsAnError(t *testing.T) {
	t.Parallel()
	g := newGround(t, func(o *server.Options) { o.MaxPayload = 1500 }, longNames(3, 700)...)
	g.start()
	for range 2 {
		began := time.Now()
		_, _, err := control.NewClient(g.NC).Statuses(t.Context(), control.Request{})
		if err == nil || !strings.Contains(err.Error(), "max_payload 1500") {
			t.Errorf("asked for statuses: %v after %v", err, time.Since(began))
		}
	}
	if n := g.logged("a control request could not be answered"); n != 1 {
		t.Errorf("that was logged %d times", n)
	}
}
