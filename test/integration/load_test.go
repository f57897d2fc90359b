package integration

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/exesdb/subproxy/test/harness"
	"github.com/nats-io/nats.go"
)

func TestFloodOfEventsCostsAHandfulOfRegistrations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	i, first := w.settled(quiet(t, w.URL, greenhouse), greenhouseKey, greenhouseTokens)
	before := w.Stream().CachedInfo().State.LastSeq
	// A client of its own, as the flood would come from elsewhere; the world's hears it all as well.
	nc, err := nats.Connect(w.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	const flood, asks = 100_000, 10
	began := time.Now()
	for n := 1; n <= flood; n++ {
		if err := nc.Publish(harness.LeaderChanged, fmt.Appendf(nil, `{"store":"greenhouse","term":%d}`, n)); err != nil {
			t.Fatal(err)
		}
		if n%(flood/asks) == 0 {
			if a := w.AskOne("status", ""); len(a.Proxies) != 1 {
				t.Errorf("status in the flood: %+v", a)
			}
		}
	}
	if err := nc.FlushTimeout(harness.Patience); err != nil {
		t.Fatal(err)
	}
	r := w.Await(greenhouseKey, "registered with the last event's term", func(r harness.Record) bool { return r.Term == flood })
	w.AwaitStatus(greenhouseTokens, "verified after the flood", harness.VerifiedAt(r.Revision))
	w.Eventually("hear every event", func() bool {
		heard := i.counter(t, "cluster_events_received_total")
		return heard == flood
	})
	w.AskOne("status", "")
	// A few at once, then five a second for as long as the flood lasts: 30 at most, but for a machine that
	// takes long over it.
	most := max(30, 6+uint64(time.Since(began)/(200*time.Millisecond)))
	if n := w.Stream().CachedInfo().State.LastSeq - before; n < 1 || n >= most {
		t.Errorf("%d events caused %d writes, want 1 to %d", flood, n, most-1)
	}
	if r.Incarnation != first.Incarnation {
		t.Errorf("incarnation %d, want %d", r.Incarnation, first.Incarnation)
	}
	if last := w.Await(greenhouseKey, "there", func(harness.Record) bool { return true }); last.Term != flood {
		t.Errorf("the last record has term %d, want %d", last.Term, flood)
	}
}

func TestTenThousandSubscriptionsAreRegisteredWithoutGoroutines(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of subscriptions")
	}
	w := newWorld(t) // not parallel: it counts goroutines
	const n = 10_000
	w.start(quiet(t, w.URL, greenhouse)).stop() // so that what is made once is there
	base := runtime.NumGoroutine()
	c := quiet(t, w.URL, many("s", n))
	c.SubscriptionProxy.VerificationTimeout = 30 * time.Second
	c.Status.SummaryInterval = 100 * time.Millisecond
	i := w.start(c)
	w.Eventually("the summary to count all as verified", func() bool { return w.verified("s") == n })
	all := w.awaitVerified("s", n, 1)
	w.holds(n, i.Owner().ID, "initial", all)
	if more := runtime.NumGoroutine() - base; more > 60 {
		t.Errorf("%d goroutines more with %d subscriptions", more, n)
	}
	before := w.Stream().CachedInfo().State.LastSeq
	w.Publish(harness.LeaderChanged, `{"store":"s","term":4}`)
	w.Eventually("as many writes as subscriptions", func() bool { return w.Stream().CachedInfo().State.LastSeq >= before+n })
	all = w.awaitVerified("s", n, before+1)
	w.holds(n, i.Owner().ID, "leader_changed", all)
	if last := w.Stream().CachedInfo().State.LastSeq; last != before+n {
		t.Errorf("%d writes for one event and %d subscriptions", last-before, n)
	}
	if more := runtime.NumGoroutine() - base; more > 60 {
		t.Errorf("%d goroutines more after an event for %d subscriptions", more, n)
	}
	i.stop()
	if left := w.Records(); len(left) > 0 {
		t.Errorf("%d of %d records left after the stop", len(left), n)
	}
	if alerts := w.Alerts(); len(alerts) > 0 {
		t.Errorf("alerts: %+v", alerts)
	}
}

// verified is how many the store's last summary counts so.
func (w *world) verified(id string) int {
	if data := w.Latest("exesdb.proxy.summary." + id); data != nil {
		return harness.Decode[struct{ Verified int }](w, data).Verified
	}
	return 0
}

// holds checks the bucket against what the statuses say: each record of this owner and cause, at the
// revision verified.
func (w *world) holds(n int, id, cause string, statuses []harness.Status) {
	w.Helper()
	verified := map[string]uint64{}
	for _, s := range statuses {
		verified[s.Name] = s.Revision
	}
	records, wrong := w.Records(), 0
	for key, r := range records {
		if r.Owner.ID != id || r.Cause != cause || r.Revision != verified[r.Name] {
			if wrong++; wrong <= 3 {
				w.Errorf("%s: %+v, verified at %d", key, r, verified[r.Name])
			}
		}
	}
	if len(records) != n || wrong > 0 {
		w.Errorf("%d records of %d, %d of them wrong", len(records), n, wrong)
	}
}
