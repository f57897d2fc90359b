package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/test/harness"
)

func TestLeaderChangeReregistersAtOnceAndIsVerified(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := quiet(t, w.URL, store("green.house", config.Subscription{Name: "to pubsub", Type: "by_stream", Selector: "$all", StartVersion: -1}))
	const key, tokens = "green=2Ehouse.by_stream.=24all.to=20pubsub", "green=2Ehouse.to=20pubsub"
	i, first := w.settled(c, key, tokens)
	if first.Cause != "initial" || first.Term != 0 || first.Incarnation != 1 {
		t.Errorf("the first record is %+v, want cause initial, term 0, incarnation 1", first)
	}

	w.Publish(harness.LeaderChanged, `{"store":"green.house","leader":"n2","previous_leader":"n1","term":42,"reason":"n1 stopped"}`)
	r := w.Await(key, "registered after the leader change", harness.After(first.Revision, "leader_changed"))
	w.AwaitStatus(tokens, "verified after the leader change", func(s harness.Status) bool {
		return harness.VerifiedAt(r.Revision)(s) && s.LastCause == "leader_changed"
	})

	prefix := "exesdb.proxy.deliver." + i.Owner().ID + "."
	if number, ok := strings.CutPrefix(r.DeliverSubject, prefix); !ok || number == "" || strings.Trim(number, "0123456789") != "" {
		t.Errorf("deliver subject %q, want %s<n>", r.DeliverSubject, prefix)
	}
	want := harness.Record{
		Store: "green.house", Type: "by_stream", Selector: "$all", Name: "to pubsub", StartVersion: -1,
		Owner: harness.Owner{Name: t.Name(), ID: i.Owner().ID}, Incarnation: 1, Term: 42, Cause: "leader_changed",
		DeliverSubject: first.DeliverSubject, RegisteredAt: r.RegisteredAt, Revision: r.Revision,
	}
	if r != want {
		t.Errorf("the record is\n%+v, want\n%+v", r, want)
	}
	if r.RegisteredAt.Location() != time.UTC || !r.RegisteredAt.After(first.RegisteredAt) {
		t.Errorf("registered at %s after %s", r.RegisteredAt, first.RegisteredAt)
	}
	if writes := w.Writes(); len(writes) != 2 {
		t.Errorf("%d writes, want 2: %+v", len(writes), writes)
	}
}

func TestEmitterRestartReregistersWhatItsTopicNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stream := func(name string) config.Subscription {
		return config.Subscription{Name: name, Type: "by_stream", Selector: "$all"}
	}
	c := quiet(t, w.URL, store("s", byType("a", "x:v1"), byType("b", "y:v1"), stream("audit"), stream("other")))
	keys := map[string]string{
		"a": "s.by_event_type.x=3Av1.a", "b": "s.by_event_type.y=3Av1.b",
		"audit": "s.by_stream.=24all.audit", "other": "s.by_stream.=24all.other",
	}
	i := w.start(c)
	for name, key := range keys {
		w.Await(key, "registered first", func(harness.Record) bool { return true })
		w.AwaitStatus("s."+name, "verified first", harness.VerifiedAt(1))
	}
	for _, step := range []struct {
		body  string
		names []string
	}{
		{`{"store":"s","topic":"x:v1"}`, []string{"a"}},
		{`{"store":"s","topic":"$all"}`, []string{"audit", "other"}},
		{`{"store":"s","topic":"$audit"}`, []string{"audit"}},
		{`{"store":"s","topic":"*other-$all"}`, []string{"other"}},
		{`{"store":"s","topic":"nobody:v1"}`, nil},
		{`{"store":"s","emitter":"n2"}`, []string{"a", "b", "audit", "other"}},
	} {
		before := len(w.Writes())
		ignored := i.counter(t, "cluster_events_ignored_total", "reason=topic")
		w.Publish(harness.EmitterRestarted, step.body)
		if step.names == nil {
			w.Eventually("count the topic that names nothing", func() bool {
				return i.counter(t, "cluster_events_ignored_total", "reason=topic") == ignored+1
			})
		}
		w.Eventually("as many writes as subscriptions named by "+step.body, func() bool { return len(w.Writes()) >= before+len(step.names) })
		// The next answer comes after whatever else the event might have caused was begun.
		w.AskOne("status", `{"store":"s"}`)
		wrote := map[string]int{}
		for _, one := range w.Writes()[before:] {
			if one.Record.Cause != "emitter_restarted" {
				t.Errorf("%s: %s written for cause %q", step.body, one.Key, one.Record.Cause)
			}
			wrote[one.Key]++
		}
		for _, name := range step.names {
			if wrote[keys[name]] != 1 {
				t.Errorf("%s: %s written %d times, want once", step.body, name, wrote[keys[name]])
			}
			delete(wrote, keys[name])
			w.AwaitStatus("s."+name, "verified", harness.VerifiedAt(uint64(before)+1))
		}
		if len(wrote) > 0 {
			t.Errorf("%s: written besides: %v", step.body, wrote)
		}
	}
}

func TestTimerRegistersWhereNoEventWasHeard(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := quiet(t, w.URL, greenhouse)
	c.SubscriptionProxy.InitialReregisterInterval = 50 * time.Millisecond
	c.SubscriptionProxy.NormalReregisterInterval = 100 * time.Millisecond
	_, first := w.settled(c, greenhouseKey, greenhouseTokens)
	second := w.Await(greenhouseKey, "registered by the timer", harness.After(first.Revision, "timer"))
	third := w.Await(greenhouseKey, "registered by the timer again", harness.After(second.Revision, "timer"))
	w.AwaitStatus(greenhouseTokens, "verified by the timer", harness.VerifiedAt(third.Revision))
}

func TestClusterEventsAreReadGenerously(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := quiet(t, w.URL, greenhouse, store("other", byType("initialized", "greenhouse_initialized:v1")))
	const otherKey = "other.by_event_type.greenhouse_initialized=3Av1.initialized"
	i, mine := w.settled(c, greenhouseKey, greenhouseTokens)
	other := w.Await(otherKey, "registered first", func(harness.Record) bool { return true })
	w.AwaitStatus("other.initialized", "verified first", harness.VerifiedAt(other.Revision))

	malformed := 0.0
	for _, body := range []string{"", "  ", "null", "not json", `["store"]`, `{"store":`, "\xff\xfe\x00", `{}`, `{"term":7}`, `{"store":null}`, `{"store":{"id":"greenhouse"}}`} {
		w.Publish(harness.LeaderChanged, body)
		mine = w.Await(greenhouseKey, "registered for body "+body, harness.After(mine.Revision, "leader_changed"))
		other = w.Await(otherKey, "registered for body "+body, harness.After(other.Revision, "leader_changed"))
		w.AwaitStatus("other.initialized", "verified", harness.VerifiedAt(other.Revision))
		w.AwaitStatus(greenhouseTokens, "verified", harness.VerifiedAt(mine.Revision))
		switch strings.TrimSpace(body) {
		case "", `{}`, `{"term":7}`, `{"store":null}`:
		default:
			malformed++
		}
	}
	if n := i.counter(t, "cluster_events_malformed_total"); n != malformed {
		t.Errorf("%v events counted as malformed, want %v", n, malformed)
	}
	if n := strings.Count(i.log.tail(1<<20), "could not be read and is taken to mean every store"); n != 1 {
		t.Errorf("malformed events logged %d times, want once a minute", n)
	}

	before := len(w.Writes())
	w.Publish(harness.LeaderChanged, `{"store":"unknown","term":99}`)
	w.Eventually("count the unknown store", func() bool { return i.counter(t, "cluster_events_ignored_total", "reason=store") == 1 })
	w.AskOne("status", "")
	if writes := w.Writes(); len(writes) != before {
		t.Errorf("a leader change of an unknown store caused %+v", writes[before:])
	}
}

func TestLowerTermIsIgnoredAndEqualOrHigherActedOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	i, r := w.settled(quiet(t, w.URL, greenhouse), greenhouseKey, greenhouseTokens)
	act := func(body string, term uint64) {
		t.Helper()
		w.Publish(harness.LeaderChanged, body)
		r = w.Await(greenhouseKey, "registered for "+body, harness.After(r.Revision, "leader_changed"))
		w.AwaitStatus(greenhouseTokens, "verified", harness.VerifiedAt(r.Revision))
		if r.Term != term {
			t.Errorf("%s: the record has term %d, want %d", body, r.Term, term)
		}
	}
	ignored := 0.0
	ignore := func(body string) {
		t.Helper()
		ignored++
		w.Publish(harness.LeaderChanged, body)
		w.Eventually("count the stale "+body, func() bool { return i.counter(t, "cluster_events_ignored_total", "reason=term") == ignored })
		w.AskOne("status", "")
		if now, _ := w.Record(greenhouseKey); now != r {
			t.Errorf("%s: the record became %+v", body, now)
		}
	}
	act(`{"store":"greenhouse","term":5}`, 5)
	ignore(`{"store":"greenhouse","term":4}`)
	act(`{"store":"greenhouse","term":5}`, 5)
	act(`{"store":"greenhouse"}`, 5)
	act(`{"store":"greenhouse","term":"41"}`, 41)
	ignore(`{"store":"greenhouse","term":"9"}`)
	ignore(`{"term":40}`)
	act(`{"store":"greenhouse","term":"nonsense"}`, 41)
	act(`{"store":"greenhouse","term":4611686018427387903}`, 4611686018427387903)
	ignore(`{"store":"greenhouse","term":4611686018427387902}`)
}
