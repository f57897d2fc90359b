package natsnode_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/natsnode"
)

func start(t testing.TB, o natsnode.Options) *natsnode.Node {
	t.Helper()
	n, err := natsnode.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Shutdown)
	return n
}

func TestNodeAcceptsConnectionsAndStreamsWhenStarted(t *testing.T) {
	n := start(t, natsnode.Options{})
	_, js := connect(t, n.URL())
	createStream(t, js, "s", 1)
}

func TestRestartKeepsPortAndStore(t *testing.T) {
	n := start(t, natsnode.Options{})
	nc, js := connect(t, n.URL())
	createStream(t, js, "s", 1)
	publish(t, js, "s.a")
	url := n.URL()
	for range 3 {
		n.Stop()
		if _, err := nats.Connect(url); !errors.Is(err, nats.ErrNoServers) {
			t.Fatalf("connect to a stopped node: %v", err)
		}
		if err := n.Restart(); err != nil {
			t.Fatal(err)
		}
		if n.URL() != url {
			t.Fatalf("URL %s after restart, %s before", n.URL(), url)
		}
		wantMessages(t, js, "s", 1)
	}
	if nc.ConnectedUrl() != url {
		t.Fatalf("client is connected to %s, want %s", nc.ConnectedUrl(), url)
	}
}

func TestStoppedNodeKeepsItsPort(t *testing.T) {
	n := start(t, natsnode.Options{})
	n.Stop()
	for range 500 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if strings.HasSuffix(n.URL(), l.Addr().String()) {
			t.Fatal("the port was given to another")
		}
	}
	if err := n.Restart(); err != nil {
		t.Fatal(err)
	}
}

func TestShutdownRemovesTemporaryStoreOnly(t *testing.T) {
	n := start(t, natsnode.Options{})
	temporary := n.Server().StoreDir()
	kept := t.TempDir()
	m := start(t, natsnode.Options{StoreDir: kept})
	n.Shutdown()
	n.Shutdown()
	m.Shutdown()
	if _, err := os.Stat(temporary); !os.IsNotExist(err) {
		t.Errorf("temporary store: %v", err)
	}
	if _, err := os.Stat(filepath.Join(kept, server.JetStreamStoreDir)); err != nil {
		t.Errorf("given store: %v", err)
	}
	wantErr(t, n.Restart(), natsnode.ErrShutdown)
}

func TestStartSaysWhatPreventsIt(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o    natsnode.Options
		want string
	}{
		"port taken":  {natsnode.Options{Port: l.Addr().(*net.TCPAddr).Port}, "address already in use"},
		"bad store":   {natsnode.Options{StoreDir: file}, "JetStream"},
		"bad options": {natsnode.Options{Configure: func(o *server.Options) { o.ServerName = "no spaces" }}, "spaces"},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := natsnode.Start(c.o)
			if err == nil {
				n.Shutdown()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %q does not say %q", err, c.want)
			}
		})
	}
}

func TestConfigureHasTheLastWord(t *testing.T) {
	n := start(t, natsnode.Options{Configure: func(o *server.Options) {
		o.Users = []*server.User{{Username: "u", Password: "p"}}
	}})
	check := func() {
		t.Helper()
		if _, err := nats.Connect(n.URL()); !errors.Is(err, nats.ErrAuthorization) {
			t.Fatalf("without a user: %v", err)
		}
		nc, err := nats.Connect(n.URL(), nats.UserInfo("u", "p"))
		if err != nil {
			t.Fatal(err)
		}
		nc.Close()
	}
	check()
	if err := n.Restart(); err != nil {
		t.Fatal(err)
	}
	check()
}

func TestJetStreamGoesAndComesBackWhileCoreStays(t *testing.T) {
	n := start(t, natsnode.Options{})
	nc, js := connect(t, n.URL())
	createStream(t, js, "s", 1)
	publish(t, js, "s.a")
	if err := n.DisableJetStream(); err != nil {
		t.Fatal(err)
	}
	_, err := js.AccountInfo(within(t))
	wantErr(t, err, jetstream.ErrJetStreamNotEnabledForAccount)
	if _, err := js.Publish(within(t), "s.b", nil); err == nil {
		t.Fatal("the stream took a message")
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := n.EnableJetStream(); err != nil {
		t.Fatal(err)
	}
	wantMessages(t, js, "s", 1)
	publish(t, js, "s.c")
	if nc.Stats().Reconnects != 0 {
		t.Error("the connection was lost")
	}
}
