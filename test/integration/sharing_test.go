package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/subscription"
	"github.com/exesdb/subproxy/test/harness"
)

// sharer is an instance that shares, with what it is configured with.
type sharer struct {
	*instance
	name     string
	weight   int
	draining bool
	keys     []string
}

// share starts an instance with subscriptions of one store.
func (w *world) share(name, url string, subs []config.Subscription, change ...func(*config.Config)) *sharer {
	w.Helper()
	c := quiet(w, url, store("s", subs...))
	c.Instance.Name, c.Instance.SessionTTL = name, time.Hour // whoever is silent is taken to live, unless a test says otherwise
	for _, change := range change {
		change(c)
	}
	s := &sharer{instance: w.start(c), name: name, weight: c.Instance.Weight}
	for _, sub := range subs {
		s.keys = append(s.keys, subscription.Subscription{Store: "s", Type: subscription.Type(sub.Type), Selector: sub.Selector, Name: sub.Name}.Key())
	}
	return s
}

// shouldHave says who of those that know them should hold which subscriptions, by key.
func shouldHave(sharers []*sharer) map[string]*sharer {
	drained := !slices.ContainsFunc(sharers, func(s *sharer) bool { return !s.draining })
	knowing, byName := map[string][]placement.Member{}, map[string]*sharer{}
	for _, s := range sharers {
		byName[s.name] = s
		for _, key := range s.keys {
			if drained || !s.draining {
				knowing[key] = append(knowing[key], placement.Member{Name: s.name, Weight: s.weight})
			}
		}
	}
	should := map[string]*sharer{}
	for key, members := range knowing {
		should[key] = byName[placement.NewRendezvous(members).Assign(key)]
	}
	return should
}

// awaitAgreed waits until each subscription is held, verified, by the one of these that should, and stood
// by for by the others that know it. It returns the records.
func (w *world) awaitAgreed(sharers ...*sharer) map[string]harness.Record {
	w.Helper()
	return w.awaitHeld(shouldHave(sharers), sharers...)
}

// awaitHeld is awaitAgreed where it is said who should hold what.
func (w *world) awaitHeld(should map[string]*sharer, sharers ...*sharer) (records map[string]harness.Record) {
	w.Helper()
	why := ""
	defer func() {
		if w.Failed() {
			w.Logf("not shared: %s", why)
		}
	}()
	w.Eventually("the subscriptions shared by the rule", func() bool {
		records = w.Records()
		why = w.unshared(records, should, sharers)
		return why == ""
	})
	return records
}

func (w *world) unshared(records map[string]harness.Record, should map[string]*sharer, sharers []*sharer) string {
	if len(records) != len(should) {
		return fmt.Sprintf("%d of %d are registered", len(records), len(should))
	}
	for key, holder := range should {
		if r := records[key]; r.Owner.ID != holder.Owner().ID {
			return fmt.Sprintf("%s is held by %s, not by %s", key, r.Owner.Name, holder.name)
		}
	}
	reported := map[string]map[string]harness.Status{} // by instance and name
	for _, s := range sharers {
		reported[s.Owner().ID] = map[string]harness.Status{}
		for _, a := range w.Ask("status", "", harness.CompletedBy(s.Owner().ID)) {
			for _, one := range a.Proxies {
				if a.Instance.ID == s.Owner().ID {
					reported[a.Instance.ID][one.Name] = one
				}
			}
		}
	}
	for _, s := range sharers {
		for _, key := range s.keys {
			one, ok := reported[s.Owner().ID][records[key].Name]
			switch holder := should[key]; {
			case !ok:
				return fmt.Sprintf("%s does not report %s", s.name, key)
			case holder == s && !harness.VerifiedAt(records[key].Revision)(one):
				return fmt.Sprintf("%s is not verified by %s: %+v", key, s.name, one)
			case holder != s && (one.Health != "standby" || one.Owner.ID != holder.Owner().ID):
				return fmt.Sprintf("%s does not stand by for %s: %+v", s.name, key, one)
			}
		}
	}
	return ""
}

// drain tells an instance to hold nothing, or no longer to.
func (w *world) drain(s *sharer, draining bool) {
	w.Helper()
	a := w.Ask("drain", fmt.Sprintf(`{"instance":%q,"undo":%t}`, s.name, !draining), func(a []harness.Answer) bool { return len(a) == 1 })[0]
	if a.Code != "" || a.Instance.ID != s.Owner().ID {
		w.Fatalf("drain %s: %+v", s.name, a)
	}
	s.draining = draining
}

func subs(from, to int) []config.Subscription { return many("s", to).Subscriptions[from:] }

// held are the keys that an owner holds.
func held(records map[string]harness.Record, s *sharer) (keys []string) {
	for key, r := range records {
		if r.Owner.ID == s.Owner().ID {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func TestYoungerOfTwoRunsOfANameHasWhatTheOlderHadAndNothingElseMoves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 40
	older, b := w.share("host-a", w.URL, subs(0, n)), w.share("host-b", w.URL, subs(0, n))
	before := w.awaitAgreed(older, b)
	younger := w.share("host-a", w.URL, subs(0, n))
	after := w.awaitAgreed(younger, b)
	for key, was := range before {
		is := after[key]
		switch was.Owner.ID {
		case b.Owner().ID:
			if is != was {
				t.Errorf("%s is not concerned, and became %+v", key, is)
			}
		default:
			if is.Incarnation != was.Incarnation+1 {
				t.Errorf("%s became %+v", key, is)
			}
		}
	}
	w.Eventually("the older run says that it is superseded", func() bool {
		text := older.log.tail(1 << 20)
		return strings.Contains(older.notReady(t), "took over") && strings.Contains(text, "another run of this instance's name took over") &&
			strings.Contains(text, younger.Owner().ID)
	})
	w.Eventually("the younger one says that two run", func() bool {
		text := younger.log.tail(1 << 20)
		return strings.Contains(text, "another process runs under this instance's name") && strings.Contains(text, older.Owner().ID)
	})
	if text := younger.notReady(t); text != "" {
		t.Errorf("the younger is not ready: %s", text)
	}
	// Its end takes nothing from the younger: neither registrations nor the session.
	session := w.session("host-a")
	older.stop()
	w.Level()
	if now := w.Records(); !maps.Equal(now, after) {
		t.Errorf("the older run's end changed records: %+v, before %+v", now, after)
	}
	if now := w.session("host-a"); now.ID != younger.Owner().ID || now != session {
		t.Errorf("the session was %+v and is %+v", session, now)
	}
}

// member is what the contract says is in a session.
type member struct {
	Name        string `json:"name"`
	ID          string `json:"id"`
	Draining    bool   `json:"draining"`
	Incarnation uint64 `json:"incarnation"`
}

// session is what the bucket holds for an instance, as its leader says; zero: nothing.
func (w *world) session(name string) (m member) {
	w.Helper()
	m, _ = w.sessionAt(name)
	return m
}

func (w *world) sessionAt(name string) (m member, revision uint64) {
	w.Helper()
	w.Eventually("the session of "+name+" read", func() bool {
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		stream, err := w.JS.Stream(ctx, "KV_exesdb_cluster")
		if err != nil {
			return false
		}
		raw, err := stream.GetLastMsgForSubject(ctx, "$KV.exesdb_cluster.member."+name)
		if err != nil {
			return false
		}
		m, revision = member{}, raw.Sequence
		_ = json.Unmarshal(raw.Data, &m)
		return true
	})
	return m, revision
}

func TestRestartAfterACrashHasItsOwnAgainAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 40
	link := harness.NewRelay(t, w.URL)
	crashed, b := w.share("host-a", link.URL(), subs(0, n)), w.share("host-b", w.URL, subs(0, n))
	before := w.awaitAgreed(crashed, b)
	link.Cut()
	crashed.drop()
	// Its session has an hour to live: nothing but the start of the next run says that it is gone.
	again := w.share("host-a", w.URL, subs(0, n))
	after := w.awaitAgreed(again, b)
	for _, key := range held(before, b) {
		if after[key] != before[key] {
			t.Errorf("%s is not concerned, and became %+v", key, after[key])
		}
	}
	for _, key := range held(after, again) {
		if after[key].Incarnation != before[key].Incarnation+1 {
			t.Errorf("%s became %+v", key, after[key])
		}
	}
	if was, is := crashed.Owner().ID, w.session("host-a"); is.ID == was || is.Incarnation != 2 {
		t.Errorf("the session is %+v", is)
	}
}

func TestElectionOfTheClusterBucketMovesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	t.Parallel()
	nodes, err := testbed.StartNodes(t.Context(), 3, natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nodes.Shutdown)
	home := nodes.Servers[0] // stays
	w := attach(t, home.URL())
	const n, stream, ttl = 30, "KV_exesdb_cluster", time.Second
	short := func(c *config.Config) { c.Registry.Replicas, c.Instance.SessionTTL = 3, ttl }
	a, b := w.share("host-a", home.URL(), subs(0, n), short), w.share("host-b", home.URL(), subs(0, n), short)
	before := w.awaitAgreed(a, b)

	// renewed waits for so many renewals that whoever was to be taken for gone would be by then.
	renewed := func() {
		t.Helper()
		began, sessions := time.Now(), map[string]uint64{}
		for _, name := range []string{"host-a", "host-b"} {
			_, sessions[name] = w.sessionAt(name)
		}
		for name, last := range sessions {
			renewals := 0
			w.Eventually("renewals of "+name, func() bool {
				if m, revision := w.sessionAt(name); m.ID != "" && revision > last {
					last, renewals = revision, renewals+1
				}
				return renewals >= 4 && time.Since(began) > 2*ttl+time.Second
			})
		}
	}
	unmoved := func(when string) {
		t.Helper()
		renewed()
		for key, is := range w.awaitAgreed(a, b) {
			if was := before[key]; is.Owner != was.Owner || is.Incarnation != was.Incarnation || is.DeliverSubject != was.DeliverSubject {
				t.Errorf("%s: %s became %+v", when, key, is)
			}
		}
		for _, one := range w.Writes() {
			if one.Revision > before[one.Key].Revision && (one.Removed || one.Record.Owner != before[one.Key].Owner) {
				t.Errorf("%s: revision %d of %s is %+v", when, one.Revision, one.Key, one.Record)
			}
		}
	}

	leader, err := nodes.StreamLeader(t.Context(), w.JS, stream)
	if err != nil {
		t.Fatal(err)
	}
	w.Eventually("the leader steps down", func() bool {
		if _, err := w.NC.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil, time.Second); err != nil {
			return false
		}
		next, err := nodes.StreamLeader(t.Context(), w.JS, stream)
		return err == nil && next != leader
	})
	unmoved("after an election")

	w.Eventually("another node leads the sessions", func() bool {
		if leader, err = nodes.StreamLeader(t.Context(), w.JS, stream); err != nil {
			t.Fatal(err)
		}
		if leader != home {
			return true
		}
		_, _ = w.NC.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil, time.Second)
		return false
	})
	leader.Stop()
	unmoved("after the leader's death")
}

func TestInstancesOfDifferentConfigurationsAgreeOnEachSubscription(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer than the rest together")
	}
	t.Parallel()
	w := newWorld(t)
	a := w.share("host-a", w.URL, subs(0, 20))
	b := w.share("host-b", w.URL, subs(10, 30))
	c := w.share("host-c", w.URL, append(subs(0, 10), subs(20, 30)...))
	records := w.awaitAgreed(a, b, c)
	for _, s := range []*sharer{a, b, c} {
		if len(held(records, s)) == 0 {
			t.Errorf("%s holds none", s.name)
		}
	}
	// What one alone knows is its own, whoever else there is.
	alone := w.share("host-d", w.URL, append(subs(0, 30), byType("alone", "alone:v1")))
	w.awaitAgreed(a, b, c, alone)
	c.stop()
	w.awaitAgreed(a, b, alone)
	alone.stop()
	w.awaitAgreed(a, b)
}

func TestWeightsShare(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 90
	light := w.share("host-a", w.URL, subs(0, n))
	heavy := w.share("host-b", w.URL, subs(0, n), func(c *config.Config) { c.Instance.Weight = 3 })
	records := w.awaitAgreed(light, heavy)
	if l, h := len(held(records, light)), len(held(records, heavy)); l < n/8 || l > n*3/8 || l+h != n {
		t.Errorf("weights 1 and 3 hold %d and %d", l, h)
	}
	// A restart with another weight moves only the difference.
	light.stop()
	w.awaitAgreed(heavy)
	before := w.awaitAgreed(heavy, w.share("host-a", w.URL, subs(0, n)))
	heavy.stop()
	for key, is := range w.awaitAgreed(w.share("host-a", w.URL, subs(0, n)), w.share("host-b", w.URL, subs(0, n))) {
		if was := before[key]; was.Owner.Name == "host-a" && is.Owner.Name != "host-a" {
			t.Errorf("%s left host-a, whose share grew", key)
		}
	}
}

func TestDrainedInstanceHoldsNothingUntilItIsUndone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 40
	a, b := w.share("host-a", w.URL, subs(0, n)), w.share("host-b", w.URL, subs(0, n))
	before := w.awaitAgreed(a, b)
	if len(held(before, a)) == 0 || len(held(before, b)) == 0 {
		t.Fatalf("%d and %d", len(held(before, a)), len(held(before, b)))
	}
	w.drain(a, true)
	drained := w.awaitAgreed(a, b)
	for _, key := range held(before, b) {
		if drained[key] != before[key] {
			t.Errorf("%s is not concerned, and became %+v", key, drained[key])
		}
	}
	if left := held(drained, a); len(left) > 0 {
		t.Errorf("it holds %v", left)
	}
	if text := a.notReady(t); text != "" {
		t.Errorf("an instance that drains is not ready: %s", text)
	}
	w.drain(b, true) // where all drain, it is as if none did
	w.awaitAgreed(a, b)
	w.drain(a, false)
	w.awaitAgreed(a, b)
	w.drain(b, false)
	after := w.awaitAgreed(a, b)
	if was, is := held(before, a), held(after, a); !slices.Equal(was, is) {
		t.Errorf("before %v, after %v", was, is)
	}
	// A next run of the name does not know that the one before was drained.
	w.drain(a, true)
	w.awaitAgreed(a, b)
	a.stop()
	w.awaitAgreed(w.share("host-a", w.URL, subs(0, n)), b)
}

func TestWhatNobodyElseKnowsStaysWithAnInstanceThatDrains(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.share("host-a", w.URL, append(subs(0, 20), byType("alone", "alone:v1"))), w.share("host-b", w.URL, subs(0, 20))
	before := w.awaitAgreed(a, b)
	w.drain(a, true)
	const alone = "s.by_event_type.alone=3Av1.alone"
	should := shouldHave([]*sharer{a, b})
	should[alone] = a
	if after := w.awaitHeld(should, a, b); after[alone] != before[alone] {
		t.Errorf("it became %+v", after[alone])
	}
	// It is served as before.
	w.Publish(harness.LeaderChanged, `{"store":"s","term":2}`)
	w.Await(alone, "registered again", func(r harness.Record) bool {
		return r.Cause == "leader_changed" && r.Owner.ID == a.Owner().ID && r.Incarnation == before[alone].Incarnation
	})
	w.drain(a, false)
	w.awaitAgreed(a, b)
}

func TestInstanceThatIsCutOffStandsByWhereOthersHoldWhatItHad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 30
	short := func(c *config.Config) { c.Instance.SessionTTL = time.Second }
	link := harness.NewRelay(t, w.URL)
	a, b := w.share("host-a", link.URL(), subs(0, n), short), w.share("host-b", w.URL, subs(0, n), short)
	before := w.awaitAgreed(a, b)
	link.Cut()
	for key, is := range w.awaitAgreed(b) {
		if was := before[key]; was.Owner.Name == "host-a" && (is.Incarnation != was.Incarnation+1 || is.Cause != "takeover") {
			t.Errorf("%s was taken over as %+v", key, is)
		}
	}
	link.Mend()
	after := w.awaitAgreed(a, b)
	if was, is := held(before, a), held(after, a); !slices.Equal(was, is) {
		t.Errorf("before %v, after %v", was, is)
	}
	for _, key := range held(after, a) {
		if after[key].Incarnation != before[key].Incarnation+2 {
			t.Errorf("%s is back as %+v", key, after[key])
		}
	}
	for _, one := range w.Writes() { // nothing of before was written over what was taken over
		if r := one.Record; r.Owner.Name == "host-a" && one.Revision > before[one.Key].Revision && r.Incarnation < before[one.Key].Incarnation+2 {
			t.Errorf("it wrote %+v when it came back", one)
		}
	}
}
