package service

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/status"
)

func startService(t *testing.T, name string) *Service {
	t.Helper()
	n, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Shutdown)
	c, err := config.Parse("", []byte("stores: [{id: s, subscriptions: [{name: a, selector: x}]}]\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	c.NATS.URL, c.Instance.Name = n.URL(), name
	s, err := Start(t.Context(), Options{Config: c, Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop(context.Background()) })
	return s
}

// Where the bucket may not be created, statuses say that nothing is registered, and do not wait for a timer
// to find out.
func TestStatusesSayThatTheBucketIsGone(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer than the rest together")
	}
	opts := &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, Users: []*server.User{
		{Username: "operator", Password: "p"},
		{Username: "instance", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.CREATE.KV_exesdb_subscriptions"}}}},
	}}
	n, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	n.Start()
	t.Cleanup(func() { n.Shutdown(); n.WaitForShutdown() })
	if !n.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server is not ready")
	}
	nc, err := nats.Connect(n.ClientURL(), nats.UserInfo("operator", "p"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := kv.Open(t.Context(), js, kv.Config{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse("", []byte("stores: [{id: s, subscriptions: [{name: a, selector: x}]}]\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	c.NATS.URL = strings.Replace(n.ClientURL(), "nats://", "nats://instance:p@", 1)
	c.SubscriptionProxy.InitialReregisterInterval, c.SubscriptionProxy.NormalReregisterInterval = time.Hour, time.Hour
	s, err := Start(t.Context(), Options{Config: c, Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop(context.Background()) })
	await := func(what string, ok func(status.Status) bool) {
		t.Helper()
		var last []status.Status
		for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if last, err = s.Supervisor().Statuses(t.Context(), control.Request{}); err == nil && len(last) == 1 && ok(last[0]) {
				return
			}
		}
		t.Fatalf("not %s: %+v, %v", what, last, err)
	}
	verified := func(s status.Status) bool { return s.Verified }
	await("verified", verified)
	if err := js.DeleteStream(t.Context(), bucket.Stream()); err != nil {
		t.Fatal(err)
	}
	await("unverified, with the reason", func(s status.Status) bool { return !s.Verified && !s.Registered && s.LastError != "" })
	if _, err := bucket.Ensure(t.Context(), kv.Config{}); err != nil {
		t.Fatal(err)
	}
	await("verified again", verified)
}
