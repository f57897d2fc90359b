package integration

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/test/harness"
)

const groundKey = "s.by_stream.=24all.all"

// foreign is the record of a subscription of ground's store, and a question that an emitter of a term asks
// its proxy.
func (g *ground) foreign() harness.Record {
	g.Helper()
	return g.Await(groundKey, "registered", func(r harness.Record) bool { return r.DeliverSubject != "" })
}

func (g *ground) question(term uint64) string {
	g.Helper()
	m := nats.NewMsg(g.foreign().DeliverSubject)
	m.Header.Set("Exesdb-Seq", "0")
	m.Header.Set("Exesdb-Term", strconv.FormatUint(term, 10))
	reply, err := g.NC.RequestMsg(m, 2*time.Second)
	if err != nil {
		return err.Error()
	}
	return string(reply.Data)
}

func (g *ground) announce(term string) {
	g.Helper()
	g.Publish(harness.LeaderChanged, fmt.Sprintf(`{"store":"s","leader":"n2","term":%s}`, term))
}

func TestTermThatWasTooHighIsWarnedOfAndCanBeReset(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil)
	g.config.Emitter.Enabled = false // the emitter is a foreign one
	g.start()
	g.announce("42")
	g.Await(groundKey, "knows term 42", func(r harness.Record) bool { return r.Term == 42 })
	g.announce("1000000")
	g.Await(groundKey, "knows the high term", func(r harness.Record) bool { return r.Term == 1000000 })
	g.announce("43")
	g.Eventually("ignore a lower term", func() bool { return g.metric("cluster_events_ignored_total", "reason=term") == 1 })
	if got := g.question(43); got != "-ERR stale_term 1000000" {
		t.Errorf("an emitter of term 43 is answered %q", got)
	}
	for _, line := range []string{"the term of the store's leader jumped", "a leader change is ignored", "an emitter is refused"} {
		if g.logged(line) != 1 || g.logged("subproxy reset-term s") < 3 {
			t.Errorf("logged %d times: %s", g.logged(line), line)
		}
	}
	// It stays known through a graceful restart of everything.
	g.stop()
	g.start()
	g.Await(groundKey, "knows the high term after a restart", func(r harness.Record) bool { return r.Term == 1000000 && r.DeliverSubject != "" })

	client := control.NewClient(g.NC)
	answers, err := client.ResetTerm(t.Context(), "s", 43)
	if err != nil || len(answers) != 1 || answers[0].Before != 1000000 || answers[0].Affected != 1 || answers[0].Verified != 1 {
		t.Fatalf("%+v, %v", answers, err)
	}
	g.Await(groundKey, "knows the term that it was reset to", func(r harness.Record) bool { return r.Term == 43 })
	g.Eventually("answer an emitter of that term", func() bool { return strings.HasPrefix(g.question(43), "-NAK") })
	g.announce("44")
	g.Await(groundKey, "follows the next leader", func(r harness.Record) bool { return r.Term == 44 })
	g.stop()
	g.start()
	g.Await(groundKey, "knows that after a restart", func(r harness.Record) bool { return r.Term == 44 && r.DeliverSubject != "" })
}

func TestTermThatNoneCanFollowIsMalformed(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil)
	g.start()
	g.append(1, 5)
	g.awaitDelivered("all", 5)
	before := g.foreign()
	for n, term := range []string{"18446744073709551615", "9223372036854775807", `"-1"`, "4611686018427387904"} {
		g.announce(term)
		g.Eventually("count "+term, func() bool { return g.metric("cluster_events_malformed_total") == float64(n+1) })
	}
	g.Await(groundKey, "registered again all the same", func(r harness.Record) bool { return r.Revision > before.Revision })
	g.append(6, 5)
	g.awaitDelivered("all", 10)
	if n := g.logged("a cluster event has a term that is no number"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	if r := g.foreign(); r.Term > 1000 {
		t.Errorf("the registration has term %d", r.Term)
	}
	// The highest that an event may bring is followed by another.
	g.announce("4611686018427387903")
	g.append(11, 5)
	g.awaitDelivered("all", 15)
}

func TestTermsDoNotGoBackWhereEverythingIsStopped(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil)
	g.start()
	g.announce("1000")
	term := func() uint64 {
		var lease struct{ Term uint64 }
		g.Eventually("lead", func() bool {
			kv, err := g.JS.KeyValue(t.Context(), "exesdb_cluster")
			if err != nil {
				return false
			}
			e, err := kv.Get(t.Context(), "leader.s")
			if err != nil {
				return false
			}
			lease = harness.Decode[struct{ Term uint64 }](t, e.Value())
			return true
		})
		return lease.Term
	}
	g.append(1, 1) // its emitter finds out that the proxies know a later term
	g.awaitDelivered("all", 1)
	g.Eventually("the lease's term is above the one announced", func() bool { return term() > 1000 })
	first := term()
	g.stop()
	// Without the registrations too: the lease's own marker has the term.
	g.reconfigure(func(c *config.Config) { c.Stores[0].Subscriptions[0].Name = "another" })
	g.start()
	if second := term(); second <= first {
		t.Errorf("after a restart of all term %d, before %d", second, first)
	}
}
