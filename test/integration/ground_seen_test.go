package integration

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/service"
	"github.com/exesdb/subproxy/internal/web"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/exesdb/subproxy/test/harness"
)

// host starts an emitter in the instance's process.
func (g *ground) host() {
	g.Helper()
	var err error
	g.emitter, err = service.StartEmitter(context.Background(), service.EmitterOptions{
		Config: g.config, Logger: slog.New(slog.NewTextHandler(g.log, nil)), Metrics: emitter.NewMetrics(nil), Beside: g.instance, StartTimeout: 20 * time.Second,
	})
	if err != nil {
		g.Fatal(err)
	}
}

// told is the status that a subscription's proxy published last.
func (g *ground) told(name string) (s status.Status) {
	g.Helper()
	if data := g.Latest("exesdb.proxy.status.s." + name); data != nil {
		s = harness.Decode[status.Status](g, data)
	}
	return s
}

// raised are the alerts so far, as "level scope name".
func (g *ground) raised() (all []string) {
	g.Helper()
	for _, a := range g.Alerts() {
		all = append(all, strings.TrimSpace(a.Level+" "+a.Scope+" "+a.Name))
	}
	return all
}

func (g *ground) awaitRaised(want ...string) {
	g.Helper()
	var got []string
	defer func() {
		if g.Failed() {
			g.Logf("alerts: %q", got)
		}
	}()
	g.Eventually("alerts "+strings.Join(want, ", "), func() bool {
		got = g.raised()
		return strings.Join(got, ", ") == strings.Join(want, ", ")
	})
}

func TestStoreWithoutAnEmitterIsSeen(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil, allEvents("all"), allEvents("audit"))
	g.config.Emitter.Enabled, g.config.Status.EmitterSilentAfter = false, time.Second*time.Duration(*groundServers) // whose elections are slow
	g.start()
	g.metrics.MustRegister(web.NewCollector(g.instance, 100))
	g.host() // it makes the stream
	g.append(1, 3)
	g.awaitDelivered("all", 3)
	g.Eventually("a lag is known", func() bool { s := g.told("all"); return s.Lag != nil && *s.Lag == 0 })
	var before []string // it may have been without an emitter for so long before there was one
	g.Eventually("no alert of the store stands", func() bool {
		before = g.raised()
		return len(before) == 0 || before[len(before)-1] == "resolved store"
	})
	if err := g.emitter.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.emitter.Stop(t.Context()); err != nil {
		t.Errorf("stopped again: %v", err)
	}
	g.append(4, 3)
	g.awaitRaised(append(before, "warning store")...)
	g.Eventually("statuses say why", func() bool {
		all, audit := g.told("all"), g.told("audit")
		return all.Health == "degraded" && audit.Health == "degraded" && all.Lag == nil && strings.Contains(all.LastError, "no emitter leads store s: the last, ")
	})
	if g.metric("store_trouble", "store=s") != 1 {
		t.Error("no metric says that the store has trouble")
	}
	g.host()
	g.awaitRaised(append(before, "warning store", "resolved store")...)
	g.awaitDelivered("all", 6)
	g.Eventually("well", func() bool {
		s := g.told("audit")
		return s.Health == "healthy" && s.Lag != nil && *s.Lag == 0 && s.LastError == ""
	})
}

func TestStandstillIsSeen(t *testing.T) {
	t.Parallel()
	asks := config.Subscription{
		Name: "billing", Type: "by_stream", Selector: "$all",
		Forward: &config.Forward{Sink: "request", Subject: "app.billing", Timeout: time.Minute, MaxDeliver: 5},
	}
	g := newGround(t, nil, allEvents("all"), asks)
	g.config.Status.StalledAfter = time.Second
	silent, err := g.NC.SubscribeSync("app.billing")
	if err != nil {
		t.Fatal(err)
	}
	g.start()
	g.metrics.MustRegister(web.NewCollector(g.instance, 100))
	g.append(1, 3)
	g.awaitRaised("warning proxy billing")
	s := g.told("billing")
	if !s.Stalled || s.Health != "degraded" || s.Lag == nil || *s.Lag != 3 || !strings.Contains(s.LastError, "sink request has not got event 1 accepted on app.billing") {
		t.Errorf("status %+v", s)
	}
	if n := g.metric("subscriptions_stalled", "store=s"); n != 1 {
		t.Errorf("%v subscriptions are stalled", n)
	}
	if s := g.told("all"); s.Health != "healthy" || s.Stalled {
		t.Errorf("status of another %+v", s)
	}
	for range 3 {
		m, err := silent.NextMsg(harness.Patience)
		if err == nil {
			err = m.Respond(nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	g.awaitRaised("warning proxy billing", "resolved proxy billing")
	g.Eventually("well", func() bool { s := g.told("billing"); return s.Health == "healthy" && !s.Stalled })
}

func TestOperatorsAreAnsweredInFull(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil)
	g.start()
	g.Eventually("registered", func() bool { return g.told("all").Verified })
	ask := func(verb, body string) (code string, text string) {
		m, err := g.NC.Request("exesdb.proxy.control."+verb, []byte(body), harness.Patience)
		if err != nil {
			t.Fatal(err)
		}
		return m.Header.Get("Nats-Service-Error-Code"), string(m.Data)
	}
	for _, c := range []struct{ verb, body, code, text string }{
		{"status", `{"store":"s","name":"nobody"}`, "404", `no subscription \"nobody\" of store \"s\" is registered, or configured here`},
		{"status", `{"store":"nope"}`, "404", `no subscription of store \"nope\" is registered, or configured here`},
		{"status", `{"store":1}`, "400", `\"store\" is a number; it has to be a text`},
		{"status", `[]`, "400", "the body is a list; it has to be a JSON object"},
		{"list", `{"store":"nope"}`, "404", "no subscription of store"},
		{"restart", `{"store":"nope","name":"x"}`, "404", "no subscription"},
		{"status", `{"store":"s"}`, "", `"proxies":[{`},
	} {
		if code, text := ask(c.verb, c.body); code != c.code || !strings.Contains(text, c.text) || strings.Contains(text, "Go ") {
			t.Errorf("%s %s: %s %s", c.verb, c.body, code, text)
		}
	}
	var stats micro.Stats
	g.Eventually("every answer is counted", func() bool {
		m, err := g.NC.Request("$SRV.STATS.subproxy", nil, harness.Patience)
		if err != nil {
			t.Fatal(err)
		}
		stats = harness.Decode[micro.Stats](t, m.Data)
		n := 0
		for _, e := range stats.Endpoints {
			n += e.NumRequests
		}
		return n == 7
	})
	for _, e := range stats.Endpoints {
		if e.Name == "status" && (e.NumRequests != 5 || e.NumErrors != 4 || e.LastError == "" || e.ProcessingTime == 0) {
			t.Errorf("stats of status: %+v", e)
		}
	}

	// Of what another instance holds, one that stands by has nothing to tell, which is a list.
	other := groundOn(g.world)
	other.config.Emitter.Enabled, other.config.Instance.Name = false, "other"
	other.start()
	g.Eventually("both answer", func() bool {
		answers := g.Ask("status", `{"store":"s","held":true}`, func(a []harness.Answer) bool { return len(a) == 2 })
		return len(answers) == 2 && len(answers[0].Proxies)+len(answers[1].Proxies) == 1 && answers[0].Proxies != nil && answers[1].Proxies != nil
	})
}

// standing are the keys of alerts in the cluster bucket.
func (g *ground) standing() (keys []string) {
	g.Helper()
	kv, err := g.JS.KeyValue(g.Context(), "exesdb_cluster")
	if err != nil {
		return nil
	}
	lister, err := kv.ListKeysFiltered(g.Context(), "alert.>")
	if err != nil {
		g.Fatal(err)
	}
	for key := range lister.Keys() {
		keys = append(keys, key)
	}
	return keys
}

func TestAlertsOfAKilledRunAreResolved(t *testing.T) {
	t.Parallel()
	refused := config.Subscription{
		Name: "billing", Type: "by_stream", Selector: "$all",
		Forward: &config.Forward{Sink: "request", Subject: "app.billing", Timeout: time.Second, MaxDeliver: 5},
	}
	g := newGround(t, nil, allEvents("all"), allEvents("audit"), refused)
	g.start()
	g.append(1, 3)
	g.awaitRaised("warning proxy billing")
	if keys := g.standing(); len(keys) != 1 || keys[0] != "alert.proxy.s.billing" {
		t.Fatalf("keys of standing alerts: %q", keys)
	}
	sub, err := g.NC.Subscribe("app.billing", func(m *nats.Msg) { _ = m.Respond(nil) })
	if err != nil {
		t.Fatal(err)
	}
	g.awaitRaised("warning proxy billing", "resolved proxy billing")
	g.Eventually("no alert stands", func() bool { return len(g.standing()) == 0 })
	g.stop()

	// What runs that were killed left behind: of this instance, and of one that never comes back.
	kv, err := g.JS.KeyValue(t.Context(), "exesdb_cluster")
	if err != nil {
		t.Fatal(err)
	}
	leave := func(a status.Standing) {
		t.Helper()
		data, err := json.Marshal(a)
		if err == nil {
			_, err = kv.Put(t.Context(), a.Key(), data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	former := registration.Owner{Name: g.config.Instance.Name, ID: "former"}
	gone := registration.Owner{Name: "gone", ID: "gone"}
	for _, a := range []status.Standing{
		{Scope: "proxy", Store: "s", Name: "all", Level: status.Warning, Owner: former},
		{Scope: "proxy", Store: "s", Name: "billing", Level: status.Critical, Owner: gone},
		{Scope: "proxy", Store: "s", Name: "removed", Level: status.Warning, Owner: former},
		{Scope: "store", Store: "s", Level: status.Warning, Owner: former},
		{Scope: "store", Store: "s", Level: status.Critical, Owner: gone},
		{Scope: "store", Store: "other", Level: status.Critical, Owner: former},
	} {
		leave(a)
	}
	before := len(g.raised())
	g.start()
	g.Eventually("all are resolved", func() bool { return len(g.standing()) == 0 })
	counts := map[string]int{}
	for _, a := range g.Alerts()[before:] {
		counts[a.Level+" "+a.Scope+" "+a.Store+" "+a.Name]++
	}
	for what, n := range map[string]int{
		"resolved proxy s all": 1, "resolved proxy s billing": 1, "resolved proxy s removed": 1, "resolved store s ": 2, "resolved store other ": 1,
	} {
		if counts[what] < n {
			t.Errorf("%s: %d times, want %d", what, counts[what], n)
		}
		delete(counts, what)
	}
	if len(counts) > 0 {
		t.Errorf("alerts besides: %v", counts)
	}
	// An alert that stands on is not resolved before what it tells of has ended.
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	g.append(4, 1)
	g.Eventually("raised again", func() bool { all := g.raised(); return all[len(all)-1] == "warning proxy billing" })
}
