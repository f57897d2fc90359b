package integration

import (
	"context"
	"fmt"
	"net/url"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/test/harness"
)

// fastToFail is quiet, with the thresholds of the defaults spelled out; only what the test does causes
// attempts.
func fastToFail(t testing.TB, url string, stores ...config.Store) *config.Config {
	c := quiet(t, url, stores...)
	c.SubscriptionProxy.EnableExponentialBackoff = false
	c.SubscriptionProxy.FailureNotificationThreshold, c.SubscriptionProxy.MaxConsecutiveFailures = 3, 5
	return c
}

// keepAlerts makes NATS keep all alerts, whoever is connected when they are sent.
func (w *world) keepAlerts() func() []harness.Alert {
	w.Helper()
	stream, err := w.JS.CreateStream(w.Context(), jetstream.StreamConfig{Name: "ALERTS", Subjects: []string{"exesdb.proxy.alert.>"}})
	if err != nil {
		w.Fatal(err)
	}
	return func() (alerts []harness.Alert) {
		info, err := stream.Info(w.Context())
		if err != nil {
			return nil
		}
		for seq := info.State.FirstSeq; seq <= info.State.LastSeq && seq > 0; seq++ {
			m, err := stream.GetMsg(w.Context(), seq)
			if err != nil {
				w.Fatal(err)
			}
			alerts = append(alerts, harness.Decode[harness.Alert](w, m.Data))
		}
		return alerts
	}
}

// attempt makes every proxy try once, as an operator would who could reach the instance without NATS.
func (i *instance) attempt(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	if _, err := i.Supervisor().Reregister(ctx, "", ""); err != nil {
		t.Fatal(err)
	}
}

// all reports whether every status that the instance has is in this health, at this many failures.
func (i *instance) all(t testing.TB, want string, failures int) bool {
	t.Helper()
	statuses, err := i.Supervisor().Statuses(context.Background(), control.Request{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statuses {
		if string(s.Health) != want || s.ConsecutiveFailures != failures || s.Verified {
			return false
		}
	}
	return true
}

func TestRestartedServerFindsEverythingRegisteredAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alerts := w.keepAlerts()
	const n = 30
	i := w.start(fastToFail(t, w.URL, many("s", n)))
	w.awaitVerified("s", n, 1)
	before := w.awaitOwned(i.Owner().ID, n)

	w.node.Stop()
	w.Eventually("notice the loss", func() bool { return !i.Connected() })
	if err := i.Ready(context.Background()); err == nil {
		t.Error("ready without a connection")
	}
	for failures := 1; failures <= 7; failures++ {
		i.attempt(t)
		health, warned, critical := "healthy", 0.0, 0.0
		if failures >= 3 {
			health, warned = "degraded", 1
		}
		if failures >= 5 {
			health, critical = "failed", 1
		}
		if !i.all(t, health, failures) {
			t.Fatalf("after %d failures not all proxies are %s", failures, health)
		}
		w.Eventually(fmt.Sprintf("%v warnings and %v critical alerts after %d failures", warned, critical, failures), func() bool {
			return i.counter(t, "alerts_total", "level=warning") == warned && i.counter(t, "alerts_total", "level=critical") == critical
		})
	}
	if err := w.node.Restart(); err != nil {
		t.Fatal(err)
	}
	w.Eventually("everything registered again because of the reconnect", func() bool {
		now := w.Records()
		for key, r := range now {
			if r.Cause != "reconnected" || r.Revision <= before[key].Revision || r.Owner.ID != i.Owner().ID || r.Incarnation != before[key].Incarnation {
				return false
			}
		}
		return len(now) == n
	})
	w.Eventually("be healthy", func() bool { return len(w.awaitVerified("s", n, 1)) == n })
	w.Eventually("resolve the alert", func() bool { return len(alerts()) >= 3 })
	// Another round, all well, must add nothing.
	w.Publish(harness.LeaderChanged, "")
	w.Eventually("another round", func() bool {
		for _, r := range w.Records() {
			if r.Cause != "leader_changed" {
				return false
			}
		}
		return true
	})
	w.awaitVerified("s", n, 1)
	var said [][3]any
	for _, a := range alerts() {
		said = append(said, [3]any{a.Level, a.Scope, a.Affected})
		if a.Store != "s" || a.Name != "" || a.Subscriptions != n {
			t.Errorf("alert %+v, want one of the whole store", a)
		}
	}
	if want := [][3]any{{"warning", "store", n}, {"critical", "store", n}, {"resolved", "store", n}}; !reflect.DeepEqual(said, want) {
		t.Errorf("alerts %v, want %v", said, want)
	}
	if err := i.Ready(context.Background()); err != nil {
		t.Errorf("not ready after all is well: %v", err)
	}
}

func TestWhatWasMissedWhileDisconnectedIsMadeUpFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := harness.NewRelay(t, w.URL)
	const n = 30
	i := w.start(quiet(t, r.URL(), many("s", n)))
	w.awaitVerified("s", n, 1)
	before := w.awaitOwned(i.Owner().ID, n)
	r.Cut()
	w.Eventually("notice the loss", func() bool { return !i.Connected() })
	w.Publish(harness.LeaderChanged, `{"store":"s","term":7}`)
	deleted := 0
	for key := range before {
		if deleted++; deleted <= 10 {
			if err := w.BucketKV().Delete(w.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if i.Connected() {
		t.Fatal("the instance found a way around the cut")
	}
	r.Mend()
	after := w.awaitOwned(i.Owner().ID, n)
	w.Eventually("every record written since", func() bool {
		after = w.Records()
		for key, r := range after {
			if r.Revision <= before[key].Revision || r.Cause != "reconnected" && r.Cause != "lost" {
				return false
			}
		}
		return len(after) == n
	})
	w.awaitOwned(i.Owner().ID, n)
	if alerts := w.Alerts(); len(alerts) > 0 {
		t.Errorf("a short loss raised alerts: %+v", alerts)
	}
}

func TestEventClosesTheBreakerWhenJetStreamIsBack(t *testing.T) {
	t.Parallel()
	if raceEnabled {
		t.Skip("nats-server switches JetStream on and off with a data race of its own (jetStream.apiSubs); the test with a JetStream server behind a leaf node is the same")
	}
	w := newWorld(t)
	closesTheBreaker(w, func() {
		if err := w.node.DisableJetStream(); err != nil {
			t.Fatal(err)
		}
	}, func() {
		if err := w.node.EnableJetStream(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestEventClosesTheBreakerWhenTheJetStreamServerIsBack has the instance on a server without JetStream, a
// leaf node that reaches the JetStream of a hub, until the link between them is cut.
func TestEventClosesTheBreakerWhenTheJetStreamServerIsBack(t *testing.T) {
	t.Parallel()
	sharesJetStream := map[string]string{server.DEFAULT_GLOBAL_ACCOUNT: ""} // else the link keeps JetStream's subjects out
	var hub *server.Options                                                 // the server writes the port that it picked back
	newWorld(t, func(o *server.Options) {
		hub = o
		o.LeafNode.Host, o.LeafNode.Port = "127.0.0.1", server.RANDOM_PORT
		o.JsAccDefaultDomain, o.LeafNode.NoAdvertise = sharesJetStream, true
	})
	link := harness.NewRelay(t, fmt.Sprintf("nats://127.0.0.1:%d", hub.LeafNode.Port))
	leaf := newWorld(t, func(o *server.Options) {
		to, err := url.Parse(link.URL())
		if err != nil {
			t.Fatal(err)
		}
		o.JetStream, o.LeafNode.ReconnectInterval = false, 50*time.Millisecond
		o.JsAccDefaultDomain = sharesJetStream
		o.LeafNode.Remotes = []*server.RemoteLeafOpts{{URLs: []*url.URL{to}}}
	})
	reached := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := leaf.JS.AccountInfo(ctx)
		return err == nil
	}
	leaf.Eventually("reach the hub's JetStream", reached)
	closesTheBreaker(leaf, func() {
		link.Cut()
		leaf.Eventually("lose the hub", func() bool { return leaf.node.Server().NumLeafNodes() == 0 })
	}, func() {
		link.Mend()
		leaf.Eventually("reach the hub's JetStream again", func() bool {
			_, ok := leaf.Record(greenhouseKey)
			return ok && reached()
		})
	})
}

// closesTheBreaker is what must happen in a world whose JetStream goes and comes back while core NATS
// stays.
func closesTheBreaker(w *world, disable, enable func()) {
	t := w.TB
	c := fastToFail(t, w.URL, greenhouse)
	c.SubscriptionProxy.VerificationTimeout = time.Second
	_, first := w.settled(c, greenhouseKey, greenhouseTokens)
	disable()
	for failures := 1; failures <= 6; failures++ {
		w.Publish(harness.LeaderChanged, `{"store":"greenhouse"}`)
		s := w.AwaitStatus(greenhouseTokens, fmt.Sprintf("%d failures", failures), func(s harness.Status) bool { return s.Failures == failures })
		want := harness.Status{Health: "healthy", Breaker: "closed"}
		if failures >= 3 {
			want.Health = "degraded"
		}
		if failures >= 5 {
			want.Health, want.Breaker = "failed", "open"
		}
		if s.Health != want.Health || s.Breaker != want.Breaker || s.Verified || s.LastError == "" {
			t.Errorf("after %d failures: %+v, want %s, breaker %s", failures, s, want.Health, want.Breaker)
		}
		levels := map[int]int{3: 1, 4: 1, 5: 2, 6: 2}
		w.Eventually("as many alerts as levels entered", func() bool { return len(w.Alerts()) == levels[failures] })
	}
	enable()
	w.Publish(harness.LeaderChanged, `{"store":"greenhouse","term":2}`)
	r := w.Await(greenhouseKey, "registered once JetStream is back", harness.After(first.Revision, "leader_changed"))
	if r.Term != 2 || r.Incarnation != 1 {
		t.Errorf("the record is %+v, want term 2 and incarnation 1", r)
	}
	w.AwaitStatus(greenhouseTokens, "breaker closed", func(s harness.Status) bool {
		return harness.VerifiedAt(r.Revision)(s) && s.Breaker == "closed" && s.Failures == 0 && s.LastError == ""
	})
	w.Eventually("resolve the alert", func() bool { return len(w.Alerts()) >= 3 })
	var levels []string
	for _, a := range w.Alerts() {
		levels = append(levels, a.Level)
		if a.Scope != "proxy" || a.Name != "initialized" || a.Store != "greenhouse" || a.Affected != 1 {
			t.Errorf("alert %+v, want one of the subscription", a)
		}
	}
	if want := []string{"warning", "critical", "resolved"}; !reflect.DeepEqual(levels, want) {
		t.Errorf("alerts %v, want %v", levels, want)
	}
}
