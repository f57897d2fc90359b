//go:build unix

package integration

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/service"
	"github.com/exesdb/subproxy/test/harness"
)

// startLeaf starts a hub and a leaf node in one account, each with a JetStream domain of its own, named so.
// The remote is what the leaf's configuration has in leafnodes.remotes.
func startLeaf(t *testing.T, remote server.RemoteLeafOpts) (hub, leaf *natsnode.Node) {
	t.Helper()
	port, err := natsnode.Reserve("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Release)
	node := func(domain string, configure func(*server.Options)) *natsnode.Node {
		n, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir(), Name: domain, Configure: func(o *server.Options) {
			o.JetStreamDomain = domain
			configure(o)
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Shutdown)
		return n
	}
	hub = node("hub", func(o *server.Options) { o.LeafNode.Host, o.LeafNode.Port = "127.0.0.1", port.Number })
	leaf = node("leaf", func(o *server.Options) {
		r := remote
		r.URLs = []*url.URL{{Scheme: "nats-leaf", Host: fmt.Sprintf("127.0.0.1:%d", port.Number)}}
		o.LeafNode.Remotes, o.LeafNode.ReconnectInterval = []*server.RemoteLeafOpts{&r}, 50*time.Millisecond
	})
	for deadline := time.Now().Add(harness.Patience); leaf.Server().NumLeafNodes() == 0 || hub.Server().NumLeafNodes() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the leaf node does not connect")
		}
	}
	return hub, leaf
}

// TestJetStreamOfAnotherDomain connects to servers whose JetStream is not the one that is meant, and to one
// whose own domain is named.
func TestJetStreamOfAnotherDomain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		at string
		to config.NATS
	}{
		"the server's own": {"leaf", config.NATS{Domain: "leaf"}},
		"the leaf's":       {"hub", config.NATS{Domain: "leaf"}},
		"by its prefix":    {"hub", config.NATS{APIPrefix: "$JS.leaf.API", InboxPrefix: "_MINE"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub, leaf := startLeaf(t, server.RemoteLeafOpts{})
			c.to.URL = map[string]string{"hub": hub.URL(), "leaf": leaf.URL()}[c.at]
			worksElsewhere(t, attach(t, c.to.URL), c.to)
			if info, err := hub.Server().Jsz(nil); err != nil || info.Streams > 0 {
				t.Errorf("%v, and the hub has streams: %+v", err, info)
			}
		})
	}
}

// worksElsewhere goes through everything that subproxy does with JetStream: registry, sessions, a store's
// stream and its emitter, checkpoints, every sink, parked events, and all commands.
func worksElsewhere(t *testing.T, w *world, to config.NATS) {
	t.Helper()
	prefix := to.APIPrefix
	if to.Domain != "" {
		prefix = "$JS." + to.Domain + ".API"
	}
	js, err := jetstream.NewWithAPIPrefix(w.NC, prefix, jetstream.WithPublishAsyncMaxPending(1<<13))
	if err != nil {
		t.Fatal(err)
	}
	w.Eventually("the JetStream that is meant answers, and has a stream", func() bool {
		_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "APP", Subjects: []string{"app.stored.>"}})
		if err != nil && !errors.Is(err, nats.ErrNoResponders) { // the link of a leaf node may just have come
			t.Fatal(err)
		}
		return err == nil
	})
	refused, err := w.NC.Subscribe("app.refuses", func(m *nats.Msg) { _ = m.Respond([]byte("-ERR no")) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = refused.Unsubscribe() }()
	forward := func(name, sink, subject string) config.Subscription {
		s := allEvents(name)
		s.Forward = &config.Forward{Sink: sink, Subject: subject, Timeout: harness.Patience, MaxDeliver: 1}
		return s
	}
	w.JS = js
	g := groundOn(w, allEvents("all"), forward("stored", "stream", "app.stored.x"), forward("refused", "request", "app.refuses"))
	g.config.NATS = to
	g.start()
	const events = 20
	g.append(1, events)
	g.awaitDelivered("all", events)
	key := "s.by_stream.=24all."
	stored := func(stream string, n uint64) bool {
		s, err := js.Stream(t.Context(), stream)
		return err == nil && s.CachedInfo().State.Msgs == n
	}
	w.Eventually("store, park and write checkpoints", func() bool {
		return stored("APP", events) && stored("EXESDB_PARKED", events) && g.checkpoint(key+"all") == events
	})
	if resets := g.metric("feed_resets_total"); resets != 0 {
		t.Errorf("%g feed resets", resets)
	}
	g.stop()
	g.start()
	g.append(events+1, 1)
	g.awaitDelivered("all", events+1)
	if to.InboxPrefix != "" {
		return // the others show as much, and take the time
	}
	if to.Domain != "" {
		commandsWork(t, to, events+1)
	}
	g.stop()
	g.append(events+2, 5000) // which are read through a consumer
	g.start()
	g.awaitDelivered("all", events+5001)
}

// commandsWork runs every command as one that is given the same configuration, and looks at what each is
// there for.
func commandsWork(t *testing.T, to config.NATS, events int) {
	t.Helper()
	if testing.Short() {
		return // a program has to be built
	}
	subproxy := builtSubproxy(t)
	flags := []string{"--nats", to.URL}
	for flag, value := range map[string]string{"--js-domain": to.Domain, "--js-api-prefix": to.APIPrefix, "--inbox-prefix": to.InboxPrefix} {
		if value != "" {
			flags = append(flags, flag, value)
		}
	}
	for _, c := range []struct{ args, says string }{
		{"list", "healthy"},
		{"status s all", "healthy"},
		{"members", "yes"},
		{"checkpoints list", fmt.Sprint(events)},
		{"parked list s refused", "no"},
		{"parked show 1", `{"n":1}`},
		{"parked replay 2", "2"},
		{"parked drop 3", "3"},
		{"reregister s", "3 of 3"},
		{"restart s all", "1 of 1"},
		{"reset-term s", "s"},
		{"publish --dry-run s o-1 created {}", ""},
		{"checkpoints drop s.by_stream.=24all.nobody", "there is no checkpoint"},
	} {
		o := harness.Command(t, subproxy, append(strings.Fields(c.args), flags...)...)
		if text := o.Stdout + o.Stderr; !strings.Contains(text, c.says) {
			t.Errorf("subproxy %s: exit status %d, and it says nothing of %q: %s", c.args, o.Code, c.says, text)
		}
	}
	file := harness.ConfigFile(t, fmt.Sprintf(`nats: {url: "%s", domain: "%s", api_prefix: "%s", inbox_prefix: "%s"}
emitter: {enabled: true}
stores: [{id: s, subscriptions: [{name: all, type: by_stream, selector: $all}]}]
`, to.URL, to.Domain, to.APIPrefix, to.InboxPrefix))
	o := harness.Command(t, subproxy, "check", "--connect", "--config", file)
	if o.Code != 0 || strings.Contains(o.Stdout, "absent") {
		t.Errorf("subproxy check --connect: exit status %d: %s%s", o.Code, o.Stdout, o.Stderr)
	}
}

// documented is a server with the piece of configuration in docs/operating.md that begins so.
func documented(t *testing.T, begin string) *server.Options {
	t.Helper()
	return processed(t, piece(t, begin))
}

func piece(t *testing.T, begin string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "```\n"+begin)
	text, _, _ = strings.Cut(text, "```")
	return begin + text
}

func processed(t *testing.T, text string) *server.Options {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	harness.WriteFile(t, file, text)
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return o
}

// TestJetStreamOfAnotherAccount has the accounts configured as docs/operating.md says.
func TestJetStreamOfAnotherAccount(t *testing.T) {
	t.Parallel()
	o := documented(t, "accounts {")
	w := newWorldOf(t, o, "app")
	worksElsewhere(t, w, config.NATS{URL: w.URL, APIPrefix: "JS.acc.API"})
}

// TestPartOfAnImportIsAStartUpError leaves one line at a time out of the documented accounts.
func TestPartOfAnImportIsAStartUpError(t *testing.T) {
	t.Parallel()
	text := piece(t, "accounts {")
	for out, says := range map[string]string{
		`{service: {account: ACC, subject: "$KV.>"}, to: "JS.acc.API.$KV.>"}`: "imports the service $KV.> too, as JS.acc.API.$KV.>",
		`{stream: {account: ACC, subject: "exesdb.registry.>"}}`:              "is not heard on exesdb.registry.>",
		`{stream: {account: ACC, subject: "exesdb.cluster.state.>"}}`:         "is not heard on exesdb.cluster.state.>",
		`{service: {account: ACC, subject: "exesdb.parked.>"}}`:               "what is parked in EXESDB_PARKED, on exesdb.parked.>",
		`, response_type: stream`:                                             "response_type: stream",
	} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(text, out) {
				t.Fatalf("the documents have no %s", out)
			}
			w := newWorldOf(t, processed(t, strings.Replace(text, out, "", 1)), "app")
			g := groundOn(w)
			g.config.NATS = config.NATS{URL: w.URL, APIPrefix: "JS.acc.API"}
			err := g.tryStart()
			if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "JS.acc.API") {
				t.Errorf("it says nothing of %q: %v", says, err)
			}
		})
	}
}

// TestUnheardStreamIsSaid leaves out what a store's stream republishes, which no start can look for without
// an event.
func TestUnheardStreamIsSaid(t *testing.T) {
	t.Parallel()
	text, found := piece(t, "accounts {"), `{stream: {account: ACC, subject: "exesdb.stored.>"}}`
	w := newWorldOf(t, processed(t, strings.Replace(text, found, "", 1)), "app")
	g := groundOn(w)
	g.config.NATS = config.NATS{URL: w.URL, APIPrefix: "JS.acc.API"}
	g.start()
	n := 0
	g.Eventually("it is said", func() bool {
		g.append(n+1, 1)
		n++
		g.awaitDelivered("all", n)
		return g.logged("none is heard where it republishes them") > 0
	})
}

// TestDomainThatDoesNotAnswerIsNamed has a domain configured that no server has.
func TestDomainThatDoesNotAnswerIsNamed(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil)
	g.config.NATS.Domain = "nowhere"
	_, err := service.Start(t.Context(), service.Options{Config: g.config, StartTimeout: time.Second})
	if err == nil || !strings.Contains(err.Error(), "domain nowhere (nats.domain)") {
		t.Errorf("started with %v", err)
	}
}

// newWorldOf is a server with the accounts of a configuration, and a client of one of their users, whose
// password is the name.
func newWorldOf(t *testing.T, o *server.Options, user string) *world {
	t.Helper()
	n, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir(), Configure: func(so *server.Options) {
		so.Accounts, so.Users = o.Accounts, o.Users
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Shutdown)
	return attach(t, strings.Replace(n.URL(), "nats://", fmt.Sprintf("nats://%s:%[1]s@", user), 1))
}

// sides are a hub and a leaf node in one account, with everything called the same, and an instance with an
// emitter on each.
func sides(t *testing.T, remote server.RemoteLeafOpts) (hub, leaf *ground) {
	t.Helper()
	h, l := startLeaf(t, remote)
	side := func(n *natsnode.Node, name string) *ground {
		refuse := allEvents("refused")
		refuse.Forward = &config.Forward{Sink: "request", Subject: "app." + name, Timeout: harness.Patience, MaxDeliver: 1}
		g := groundOn(attach(t, n.URL()), allEvents("all"), refuse)
		g.config.Instance.Name, g.config.Stores[0].ID = name, name
		if _, err := g.NC.Subscribe("app."+name, func(m *nats.Msg) { _ = m.Respond([]byte("-ERR no")) }); err != nil {
			t.Fatal(err)
		}
		g.Level()
		g.start()
		return g
	}
	return side(h, "hub"), side(l, "leaf")
}

// exchange has events delivered on both sides, one after the other, for as long as many looks at a stream
// take.
func exchange(t *testing.T, sides ...*ground) {
	t.Helper()
	const rounds, events = 20, 5
	for round := 1; round <= rounds; round++ {
		for _, g := range sides {
			store := g.config.Stores[0].ID
			for i := range events {
				if _, err := g.JS.Publish(t.Context(), "exesdb.events."+store+".o-1.created", fmt.Appendf(nil, `{"n":%d}`, i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, g := range sides {
			subject := "exesdb.delivered." + g.config.Stores[0].ID + ".all"
			g.Eventually(fmt.Sprintf("%d events on %s", round*events, subject), func() bool { return len(g.Heard(subject)) >= round*events })
			if got := len(g.Heard(subject)); got != round*events {
				t.Fatalf("%d events on %s, of %d", got, subject, round*events)
			}
		}
		time.Sleep(200 * time.Millisecond) // twenty rounds are then some looks at each stream
	}
}

// TestBothSidesOfALeafInOneAccount has what the other side's buckets and streams republish heard, and
// ignored.
func TestBothSidesOfALeafInOneAccount(t *testing.T) {
	t.Parallel()
	hub, leaf := sides(t, server.RemoteLeafOpts{})
	exchange(t, hub, leaf)
	const text = "messages of another stream of the same name"
	for _, g := range []*ground{hub, leaf} {
		// A bucket follower believes the first foreign message perhaps, and none after it.
		if resets := g.logged("everything followed so far is void"); resets > 6 {
			t.Errorf("%s: %d resets", g.config.Instance.Name, resets)
		}
		g.Eventually("it is said", func() bool { return g.logged(text) > 0 })
		if n := g.logged(text); n > 6 {
			t.Errorf("%s: it is said %d times", g.config.Instance.Name, n)
		}
	}
}

// TestLeafThatDeniesHearsNothing has the leaf configured as docs/operating.md says.
func TestLeafThatDeniesHearsNothing(t *testing.T) {
	t.Parallel()
	hub, leaf := sides(t, *documented(t, "leafnodes {").LeafNode.Remotes[0])
	exchange(t, hub, leaf)
	for _, g := range []*ground{hub, leaf} {
		for _, wrong := range []string{"everything followed so far is void", "messages of another stream", "went back"} {
			if n := g.logged(wrong); n > 0 {
				t.Errorf("%s: %q is logged %d times", g.config.Instance.Name, wrong, n)
			}
		}
		parked, err := g.JS.Stream(t.Context(), "EXESDB_PARKED")
		if err != nil {
			t.Fatal(err)
		}
		other := map[string]string{"hub": "leaf", "leaf": "hub"}[g.config.Instance.Name]
		if _, err := parked.GetLastMsgForSubject(t.Context(), "exesdb.parked."+other+".refused"); !errors.Is(err, jetstream.ErrMsgNotFound) {
			t.Errorf("%s has the other side's parked events: %v", g.config.Instance.Name, err)
		}
	}
}

// TestWhatIsCreatedIsAsConfigured has an account that requires max_bytes of every stream.
func TestWhatIsCreatedIsAsConfigured(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, processed(t, `accounts {A: {jetstream: {max_file: 1GB, max_bytes_required: true}, users: [{user: a, password: a}]}}`), "a")
	refused := allEvents("refused")
	refused.Forward = &config.Forward{Sink: "request", Subject: "app.refuses", Timeout: harness.Patience, MaxDeliver: 1}
	g := groundOn(w, allEvents("all"), refused)
	if _, err := w.NC.Subscribe("app.refuses", func(m *nats.Msg) { _ = m.Respond([]byte("-ERR no")) }); err != nil {
		t.Fatal(err)
	}
	w.Level()
	tags := config.Placement{Tags: "ssd, eu"}
	c := g.config
	c.Registry.MaxBytes, c.Registry.Compression, c.Registry.Placement = 16<<20, "s2", tags
	c.Emitter.MaxBytes, c.Emitter.Compression = 8<<20, "none"
	c.Parked.MaxBytes, c.Parked.Placement = 32<<20, config.Placement{Cluster: "c1"}
	c.Stores[0].Stream.MaxBytes, c.Stores[0].Stream.Compression = 64<<20, "s2"
	findings, err := service.Inspect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		if f.Problem != nil {
			t.Errorf("%s %s: %v", f.What, f.Name, f.Problem)
		}
	}
	g.start()
	g.append(1, 1)
	g.awaitDelivered("all", 1)
	g.Eventually("it is parked", func() bool { _, err := g.JS.Stream(t.Context(), "EXESDB_PARKED"); return err == nil })
	for name, want := range map[string]struct {
		bytes       int64
		compression jetstream.StoreCompression
		placement   jetstream.Placement
	}{
		"KV_exesdb_subscriptions": {16 << 20, jetstream.S2Compression, jetstream.Placement{Tags: []string{"ssd", "eu"}}},
		"KV_exesdb_cluster":       {16 << 20, jetstream.S2Compression, jetstream.Placement{Tags: []string{"ssd", "eu"}}},
		"KV_exesdb_checkpoints":   {8 << 20, jetstream.NoCompression, jetstream.Placement{Tags: []string{"ssd", "eu"}}},
		"EXESDB_PARKED":           {32 << 20, jetstream.S2Compression, jetstream.Placement{Cluster: "c1"}},
		"EXESDB_s":                {64 << 20, jetstream.S2Compression, jetstream.Placement{}},
	} {
		stream, err := g.JS.Stream(t.Context(), name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := stream.CachedInfo().Config
		var placement jetstream.Placement
		if got.Placement != nil {
			placement = *got.Placement
		}
		if got.MaxBytes != want.bytes || got.Compression != want.compression || got.Discard != jetstream.DiscardNew || !reflect.DeepEqual(placement, want.placement) {
			t.Errorf("%s: max_bytes %d, compression %s, discard %s, placement %+v", name, got.MaxBytes, got.Compression, got.Discard, placement)
		}
	}
}
