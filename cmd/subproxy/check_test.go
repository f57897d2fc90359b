package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/natsnode"
)

// checkConnected runs check --connect against a server that was prepared, and returns what it prints and
// what is there afterwards.
func checkConnected(t *testing.T, extra string, prepare func(jetstream.JetStream) error) (out string, streams []string, err error) {
	t.Helper()
	node, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Shutdown)
	nc, err := nats.Connect(node.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := prepare(js); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "subproxy.yaml")
	if err := os.WriteFile(file, []byte("nats: {url: "+node.URL()+"}\nemitter: {enabled: true}\n"+extra), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err = execute(t, "check", "--connect", "--config", file)
	for name := range js.StreamNames(t.Context()).Name() {
		streams = append(streams, name)
	}
	return out, streams, err
}

const checkedStore = "stores: [{id: s, subscriptions: [{name: all, type: by_stream, selector: $all}]}]\n"

func TestCheckConnectFindsThatAllIsWellAndCreatesNothing(t *testing.T) {
	out, streams, err := checkConnected(t, checkedStore, func(jetstream.JetStream) error { return nil })
	if err != nil || len(streams) > 0 {
		t.Errorf("%v; streams %v", err, streams)
	}
	for _, text := range []string{"nats-server 2.", "max_payload 1048576", "exesdb_subscriptions", "exesdb_cluster", "exesdb_checkpoints", "EXESDB_PARKED", "EXESDB_s", "absent; it will be created"} {
		if !strings.Contains(out, text) {
			t.Errorf("%q is not in\n%s", text, out)
		}
	}
	if strings.Contains(out, "problem") || strings.Contains(out, "warning") {
		t.Errorf("it says\n%s", out)
	}
}

func TestCheckConnectNamesEveryProblemWithItsCure(t *testing.T) {
	out, streams, err := checkConnected(t, `
stores:
  - id: s
    subscriptions:
      - {name: all, type: by_stream, selector: $all, forward: {subject: nowhere.x, sink: stream}}
  - id: own
    stream: {name: OWN}
    subscriptions: [{name: all, type: by_stream, selector: $all}]
bridge:
  streams: [{stream: ONE, store: s}, {stream: NONE, store: s}]
`, func(js jetstream.JetStream) error {
		ctx := t.Context()
		for _, cfg := range []jetstream.StreamConfig{
			{Name: "EXESDB_s", Subjects: []string{"exesdb.events.s.>"}, Retention: jetstream.InterestPolicy},
			{Name: "ONE", Subjects: []string{"one"}}, {Name: "EXESDB_PARKED", Subjects: []string{"exesdb.parked.>"}},
		} {
			if _, err := js.CreateStream(ctx, cfg); err != nil {
				return err
			}
		}
		_, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "exesdb_subscriptions", TTL: time.Hour})
		return err
	})
	if err == nil || !strings.HasSuffix(err.Error(), "5 of 10 to mend") {
		t.Errorf("%v", err)
	}
	for _, text := range []string{
		"nats stream edit KV_exesdb_subscriptions --allow-msg-ttl", "--max-age=0s",
		"nats stream edit EXESDB_PARKED --allow-direct",
		"nats stream edit EXESDB_s --retention=limits",
		"OWN, which stores[].stream.name says holds the events of store own",
		"nats stream add NAME --subjects='nowhere.x'",
		"stream ONE has one replica", "there is no stream NONE",
	} {
		if !strings.Contains(out, text) {
			t.Errorf("%q is not in\n%s", text, out)
		}
	}
	if len(streams) != 4 {
		t.Errorf("it created something: %v", streams)
	}
}

func TestCheckConnectKnowsWhatCannotBeCreated(t *testing.T) {
	out, _, err := checkConnected(t, "registry: {replicas: 3}\n"+checkedStore, func(jetstream.JetStream) error { return nil })
	if err == nil || !strings.Contains(out, "it can't be created with registry.replicas: 3 on a server that is in no cluster") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := execute(t, "check", "--connect", "--defaults"); err == nil || !strings.Contains(err.Error(), "--connect needs --config FILE") {
		t.Errorf("without a file: %v", err)
	}
}

// An account in which every stream needs a size: nothing can be created without one, and each command that
// is named has one.
func TestCheckConnectKnowsThatEveryStreamNeedsASize(t *testing.T) {
	dir := t.TempDir()
	const accounts = "no_auth_user: a\naccounts {A: {users: [{user: a, password: a}], jetstream: {max_bytes_required: true, max_file: 64GB}}}\n"
	if err := os.WriteFile(filepath.Join(dir, "server.conf"), []byte(accounts), 0o600); err != nil {
		t.Fatal(err)
	}
	node, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir(), Configure: func(o *server.Options) {
		parsed, err := server.ProcessConfigFile(filepath.Join(dir, "server.conf"))
		if err != nil {
			t.Fatal(err)
		}
		o.Accounts, o.Users, o.NoAuthUser = parsed.Accounts, parsed.Users, parsed.NoAuthUser
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Shutdown)
	file := filepath.Join(dir, "subproxy.yaml")
	if err := os.WriteFile(file, []byte("nats: {url: "+node.URL()+"}\nemitter: {enabled: true}\n"+checkedStore), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := execute(t, "check", "--connect", "--config", file)
	if err == nil {
		t.Error("all is said to be well")
	}
	const why = "it can't be created: this account requires max_bytes of every stream; create it with the size that you want: "
	for _, create := range []string{
		"nats kv add exesdb_subscriptions ", "nats kv add exesdb_cluster ", "nats kv add exesdb_checkpoints ", "nats stream add EXESDB_PARKED ", "nats stream add EXESDB_s ",
	} {
		_, command, found := strings.Cut(out, why+create)
		command, _, _ = strings.Cut(command, "\n")
		if !found || !strings.Contains(command, "--max-bytes=") && !strings.Contains(command, "--max-bucket-size=") {
			t.Errorf("%q with a size is not in\n%s", why+create, out)
		}
	}
}

func TestCheckAndTheStartWarnOfSelectorsThatProbablyPickNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subproxy.yaml")
	const text = "stores:\n- id: s\n  subscriptions:\n  - {name: a, type: by_stream, selector: $all}\n  - {name: b, type: by_stream, selector: orders-*}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	const warning = `:5:42: warning: stores[0].subscriptions[1].selector: "orders-*" is no pattern`
	out, err := execute(t, "check", "--config", file)
	if err != nil || strings.Count(out, "warning") != 1 || !strings.Contains(out, file+warning) || !strings.Contains(out, "good; stores 1, subscriptions 2") {
		t.Errorf("%v\n%s", err, out)
	}
	was := os.Stderr
	defer func() { os.Stderr = was }()
	if os.Stderr, err = os.Create(filepath.Join(t.TempDir(), "log")); err != nil {
		t.Fatal(err)
	}
	defer os.Stderr.Close()
	if _, _, err := (&runFlags{config: file}).begin(); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(os.Stderr.Name())
	if err != nil || strings.Count(string(log), "WARN") != 1 || !strings.Contains(string(log), "orders-*") {
		t.Errorf("the start logs\n%s", log)
	}
}
