//go:build unix

package integration

import (
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/test/harness"
)

// processPermissions runs everything as users that may do what docs/permissions.conf lets them, and nothing
// else. What a server refuses it logs.
func processPermissions(t *testing.T, subproxy string) {
	page, err := server.ProcessConfigFile("../../docs/permissions.conf")
	if err != nil {
		t.Fatal(err)
	}
	said := &locked{}
	node, err := natsnode.Start(natsnode.Options{
		StoreDir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(said, nil)),
		Configure: func(o *server.Options) {
			o.Users, o.NoAuthUser = append([]*server.User{{Username: "admin", Password: "admin"}}, page.Users...), "admin"
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Shutdown)
	w := attach(t, node.URL())
	as := func(user string) string {
		return strings.Replace(w.URL, "nats://", fmt.Sprintf("nats://%s:%[1]s@", user), 1)
	}
	nothingRefused := func(doing string) {
		t.Helper()
		if text := said.tail(1 << 20); strings.Contains(text, "Violation") {
			t.Fatalf("refused while %s:\n%s", doing, text)
		}
	}
	const id = "greenhouse_tycoon"
	if _, err := w.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "APP", Subjects: []string{"app.stored.>"}}); err != nil {
		t.Fatal(err)
	}
	all := func(name string, forward *config.Forward) config.Subscription {
		return config.Subscription{Name: name, Type: "by_stream", Selector: "$all", Forward: forward}
	}
	subscriptions := []config.Subscription{
		all("published", nil), all("stored", &config.Forward{Sink: "stream", Subject: "app.stored.x"}),
		all("requested", &config.Forward{Sink: "request", Subject: "app.refuses", Timeout: harness.Patience, MaxDeliver: 1}),
	}
	for i := range 20 {
		subscriptions = append(subscriptions, byType(fmt.Sprintf("idle_%02d", i), "never"))
	}
	configured := func(user, name string) *config.Config {
		c := quiet(t, as(user), store(id, subscriptions...))
		c.Instance.Name = name
		return c
	}
	refuses, err := w.NC.Subscribe("app.refuses", func(m *nats.Msg) { _ = m.Respond([]byte("-NAK no")) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = refuses.Unsubscribe() }()
	w.Level()

	stopEmitter := w.emit(configured("emitter", "emitter"))
	a, b := w.start(configured("instance", "host-a")), w.start(configured("instance", "host-b"))
	w.awaitShared(len(subscriptions), "host-a", "host-b")
	nothingRefused("they start and share")

	command := func(args ...string) string {
		t.Helper()
		o := harness.Command(t, subproxy, append(args, "--nats", as("operator"))...)
		if o.Code != 0 {
			t.Fatalf("subproxy %s: exit status %d: %s%s", strings.Join(args, " "), o.Code, o.Stdout, o.Stderr)
		}
		return o.Stdout
	}
	const events = 10
	for range events {
		command("publish", id, "greenhouse-1", "initialized:v1", `{"area":12}`)
	}
	got := func(stream string) uint64 {
		s, err := w.JS.Stream(t.Context(), stream)
		if err != nil {
			return 0
		}
		return s.CachedInfo().State.Msgs
	}
	delivered := func(n int) {
		t.Helper()
		w.Eventually("deliver and park all", func() bool {
			return len(w.Heard("exesdb.delivered.")) >= n && got("APP") >= uint64(n) && got("EXESDB_PARKED") >= uint64(n)
		})
	}
	delivered(events)
	nothingRefused("events are delivered")

	w.Publish(harness.LeaderChanged, "")
	for _, args := range [][]string{
		{"list"}, {"status", id, "idle_00"}, {"members"}, {"reregister", id}, {"restart", id, "published"}, {"reset-term", id}, {"parked", "list"}, {"drain", "host-a"},
	} {
		command(args...)
	}
	w.awaitShared(len(subscriptions), "host-b")
	nothingRefused("an operator asks")
	o := harness.Command(t, subproxy, "publish", id, "greenhouse-1", "initialized:v1", "--nats", as("emitter"))
	if !strings.Contains(o.Stderr, "not permitted to publish to exesdb.events."+id+".greenhouse-1.") || o.Code != 1 {
		t.Errorf("publishing as one that may not: exit status %d, %s", o.Code, o.Stderr)
	}
	said.reset()
	command("drain", "host-a", "--undo")
	w.awaitShared(len(subscriptions), "host-a", "host-b")
	a.stop()
	w.awaitShared(len(subscriptions), "host-b")
	command("publish", id, "greenhouse-1", "initialized:v1", `{"area":12}`)
	delivered(events + 1)
	b.stop()
	nothingRefused("all stop")

	// A long catch-up is read through a consumer.
	const old = 8000
	for range old {
		w.Publish("exesdb.events."+id+".greenhouse-1.initialized=3Av1", "{}")
	}
	w.Eventually("store all", func() bool { return got("EXESDB_"+id) > old })
	w.start(configured("instance", "host-c"))
	w.Eventually("catch up", func() bool { return got("APP") > old })
	nothingRefused("one is far behind")

	// An emitter of somebody's own goes on where subproxy's stopped.
	stopEmitter()
	example := filepath.Join(t.TempDir(), "emitter")
	if out, err := exec.Command("go", "build", "-o", example, "github.com/exesdb/subproxy/examples/emitter").CombinedOutput(); err != nil {
		t.Fatalf("build the example: %v\n%s", err, out)
	}
	own := harness.Start(t, "emitter of one's own", example, "--nats", as("store"), "--store", id, "--term", "1000000")
	before := got("APP")
	command("publish", id, "greenhouse-1", "initialized:v1", `{"area":12}`)
	w.Eventually("deliver what it sends", func() bool { return got("APP") > before })
	nothingRefused("an emitter of one's own sends")
	own.MustKill()
}
