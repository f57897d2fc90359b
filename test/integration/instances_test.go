package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/test/harness"
)

// notReady is Service.Ready's error as text; empty: ready.
func (i *instance) notReady(t testing.TB) string {
	t.Helper()
	if err := i.Ready(t.Context()); err != nil {
		return err.Error()
	}
	return ""
}

func TestSecondRunOfANameTakesOverAndTheFirstNeverWritesAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 20
	c := quiet(t, w.URL, many("s", n))
	old := w.start(c)
	w.awaitVerified("s", n, 1)

	link := harness.NewRelay(t, w.URL)
	again := quiet(t, link.URL(), many("s", n))
	young := w.start(again)
	for key, r := range w.awaitOwned(young.Owner().ID, n) {
		if r.Incarnation != 2 || r.Owner.Name != t.Name() || r.Cause != "initial" {
			t.Errorf("%s was taken over with %+v, want incarnation 2, cause initial", key, r)
		}
	}
	w.Eventually("the first run stands by and says so", func() bool {
		answers := w.Ask("status", "", func(a []harness.Answer) bool { return len(a) == 2 })
		standby := 0
		for _, a := range answers {
			for _, s := range a.Proxies {
				if a.Instance.ID == old.Owner().ID && s.Health == "standby" && s.Owner.ID == young.Owner().ID && !s.Registered && !s.Verified {
					standby++
				}
			}
			if a.Instance.ID == old.Owner().ID && !a.Instance.Superseded || a.Instance.ID == young.Owner().ID && a.Instance.Superseded {
				standby = -n
			}
		}
		return standby == n
	})
	if text := old.notReady(t); !strings.Contains(text, "took over") {
		t.Errorf("the first run's readiness says %q", text)
	}
	if text := young.notReady(t); text != "" {
		t.Errorf("the second run's readiness says %q", text)
	}

	// The second run goes without releasing anything: its records stay.
	link.Cut()
	w.Eventually("lose the second run", func() bool { return !young.Connected() })
	young.drop()
	w.Level()
	from := w.Stream().CachedInfo().State.LastSeq
	for _, body := range []string{"", `{"store":"s","term":9}`, "{"} {
		w.Publish(harness.LeaderChanged, body)
	}
	w.Publish(harness.EmitterRestarted, `{"store":"s"}`)
	w.Eventually("hear all events", func() bool { return old.counter(t, "cluster_events_received_total") == 4 })
	for _, verb := range []string{"reregister", "restart"} {
		// Nobody answers: it is registered, by an instance that is gone.
		if err := w.NC.PublishRequest("exesdb.proxy.control."+verb, w.NC.NewInbox(), []byte(`{"store":"s","name":"s00001"}`)); err != nil {
			t.Fatal(err)
		}
	}
	key := "s.by_event_type.type_1=3Av1.s00001"
	if err := w.BucketKV().Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	deleted := from + 1
	w.Eventually("hear of the deletion", func() bool { return old.FeedStats().LastSeq >= deleted })
	if err := w.BucketKV().Purge(t.Context(), "s.by_event_type.type_2=3Av1.s00002"); err != nil {
		t.Fatal(err)
	}
	w.Put("s.by_event_type.type_3=3Av1.s00003", "garbage")
	w.Eventually("hear of the garbage", func() bool { return old.FeedStats().LastSeq >= deleted+2 })
	w.AskOne("status", "")
	old.stop()
	if last := w.Stream().CachedInfo().State.LastSeq; last != deleted+2 {
		t.Errorf("the bucket is at revision %d, want %d: somebody wrote", last, deleted+2)
	}
	for _, one := range w.Writes() {
		if one.Revision > from && one.Record.Owner.ID == old.Owner().ID {
			t.Errorf("the superseded run wrote revision %d of %s", one.Revision, one.Key)
		}
	}
}

// shared is how the rule has it that the subscriptions are divided among the instances of those names.
func shared(records map[string]harness.Record, names ...string) map[string]string {
	var members []placement.Member
	for _, name := range names {
		members = append(members, placement.Member{Name: name})
	}
	sharing, assigned := placement.NewRendezvous(members), map[string]string{}
	for key := range records {
		assigned[key] = sharing.Assign(key)
	}
	return assigned
}

// awaitShared waits until each of n subscriptions is registered for the instance that it is assigned to.
func (w *world) awaitShared(n int, names ...string) map[string]harness.Record {
	w.Helper()
	var records map[string]harness.Record
	w.Eventually(fmt.Sprintf("%d subscriptions to be shared among %v", n, names), func() bool {
		records = w.Records()
		for key, name := range shared(records, names...) {
			if records[key].Owner.Name != name {
				return false
			}
		}
		return len(records) == n
	})
	return records
}

func TestInstancesShareSubscriptionsAndTakeWhatOneLeaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 40
	start := func(name string) *instance {
		c := quiet(t, w.URL, many("s", n))
		c.Instance.Name = name
		return w.start(c)
	}
	a := start("host-a")
	w.awaitVerified("s", n, 1)
	before := w.Records()
	b := start("host-b") // from here on both publish statuses, on the same subjects
	moved := 0
	for key, r := range w.awaitShared(n, "host-a", "host-b") {
		switch {
		case r.Owner.Name == "host-a" && r.DeliverSubject != before[key].DeliverSubject:
			t.Errorf("%s was registered anew though it stays: %+v", key, r)
		case r.Owner.Name == "host-b" && (r.Incarnation != 2 || r.Cause != "takeover"):
			t.Errorf("%s moved with %+v, want incarnation 2, cause takeover", key, r)
		case r.Owner.Name == "host-b":
			moved++
		}
	}
	if moved == 0 || moved == n {
		t.Errorf("%d of %d moved to the second of two", moved, n)
	}
	// Events are acted on by who holds, and change nothing about who that is.
	w.Publish(harness.LeaderChanged, `{"store":"s","term":3}`)
	w.Eventually("the holders register again", func() bool {
		records := w.Records()
		for key, name := range shared(records, "host-a", "host-b") {
			if r := records[key]; r.Owner.Name != name || r.Cause != "leader_changed" || r.Term != 3 {
				return false
			}
		}
		return true
	})
	if text := a.notReady(t) + b.notReady(t); text != "" {
		t.Errorf("an instance that stands by for the other is not ready: %q", text)
	}
	a.stop()
	for key, r := range w.awaitShared(n, "host-b") {
		if r.Incarnation != 2 {
			t.Errorf("%s is held with %+v, want incarnation 2", key, r)
		}
	}
	b.stop()
	if left := w.Records(); len(left) > 0 {
		t.Errorf("%d records left after both stopped", len(left))
	}
}

func TestReloadTouchesOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	base := quiet(t, w.URL, store("s", byType("kept", "a"), byType("removed", "a"), byType("moved", "a"), byType("later", "a")), store("gone", byType("x", "a")))
	i := w.start(base)
	w.awaitVerified("s", 4, 1)
	w.awaitVerified("gone", 1, 1)
	before := w.Records()

	for name, change := range map[string]func(*config.Config){
		"nats":     func(c *config.Config) { c.NATS.URL += "0" },
		"instance": func(c *config.Config) { c.Instance.Name += "0" },
		"registry": func(c *config.Config) { c.Registry.Replicas = 3 },
	} {
		c := quiet(t, w.URL, store("s", byType("else", "a")))
		change(c)
		if err := i.Reload(c); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "restart") {
			t.Errorf("reload with another %s section: %v, want an error that says so", name, err)
		}
	}
	w.AskOne("status", "")
	if now := w.Records(); len(now) != len(before) {
		t.Fatalf("a refused reload left %d records of %d", len(now), len(before))
	}

	later := byType("later", "a")
	later.StartVersion = 7
	if err := i.Reload(quiet(t, w.URL, store("s", byType("kept", "a"), byType("added", "a"), byType("moved", "b"), later), store("new", byType("x", "a")))); err != nil {
		t.Fatal(err)
	}
	want := []string{"new.by_event_type.a.x", "s.by_event_type.a.added", "s.by_event_type.a.kept", "s.by_event_type.a.later", "s.by_event_type.b.moved"}
	w.Eventually("exactly the new subscriptions to be registered", func() bool {
		var keys []string
		for key := range w.Records() {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		return slices.Equal(keys, want)
	})
	w.Await("s.by_event_type.a.later", "registered with the new start version", func(r harness.Record) bool { return r.StartVersion == 7 && r.Incarnation == 2 })
	after := w.awaitOwned(i.Owner().ID, len(want))
	const kept = "s.by_event_type.a.kept"
	if after[kept] != before[kept] {
		t.Errorf("the unchanged subscription's record became %+v", after[kept])
	}
	// The supervisor's other half still works: events reach old and new subscriptions.
	w.Publish(harness.LeaderChanged, "")
	for _, key := range want {
		w.Await(key, "registered by an event after the reload", func(r harness.Record) bool { return r.Revision > after[key].Revision && r.Cause == "leader_changed" })
	}
	for _, id := range []string{"removed", "gone"} {
		for _, s := range w.AskOne("status", "").Proxies {
			if s.Name == id || s.Store == id {
				t.Errorf("%s/%s is still held: %+v", s.Store, s.Name, s)
			}
		}
	}
}

func TestStandbyTakesOverFromAnInstanceThatIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cut := harness.NewRelay(t, w.URL)
	first := quiet(t, cut.URL(), greenhouse)
	first.Instance.Name = "first"
	second := quiet(t, w.URL, greenhouse)
	second.Instance.Name, second.Instance.SessionTTL = "second", time.Second
	standby, _ := w.settled(second, greenhouseKey, greenhouseTokens)
	first.Instance.SessionTTL = time.Second
	holder, held := w.settled(first, greenhouseKey, greenhouseTokens) // the later one takes it
	w.Eventually("the second to stand by", func() bool {
		s, err := standby.Supervisor().Statuses(t.Context(), control.Request{})
		return err == nil && s[0].Health == "standby" && s[0].Owner.ID == holder.Owner().ID
	})

	cut.Cut() // what it had it can't release
	taken := w.Await(greenhouseKey, "taken over", func(r harness.Record) bool { return r.Owner.ID == standby.Owner().ID })
	if taken.Cause != "takeover" || taken.Incarnation != held.Incarnation+1 {
		t.Errorf("the record is %+v, after %+v", taken, held)
	}
	w.AwaitStatus(greenhouseTokens, "verified", harness.VerifiedAt(taken.Revision))
	holder.drop()
}
