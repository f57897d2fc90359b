package connect_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/internal/natsnode"
)

func TestConnectGivesConnectionAndJetStream(t *testing.T) {
	n := start(t, nil)
	nc, js := dial(t, connect.Options{URL: n.URL(), Name: "me"})
	if nc.Opts.Name != "me" {
		t.Errorf("connection is named %q", nc.Opts.Name)
	}
	if _, err := js.AccountInfo(within(t)); err != nil {
		t.Fatal(err)
	}
}

func TestConnectionIsFoundAgainAndSaysSo(t *testing.T) {
	n := start(t, nil)
	lost, back := make(chan struct{}, 1), make(chan struct{}, 1)
	nc, _ := dial(t, connect.Options{
		URL: n.URL(), OnDisconnect: func() { lost <- struct{}{} }, OnReconnect: func() { back <- struct{}{} },
	})
	n.Stop()
	receive(t, lost)
	if err := nc.Publish("a", nil); err == nil {
		t.Error("a publish without a connection was taken, to be sent late")
	}
	if err := n.Restart(); err != nil {
		t.Fatal(err)
	}
	receive(t, back)
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	select {
	case <-lost:
		t.Error("closing was reported as a disconnection")
	default:
	}
}

func TestConnectionOutlastsBeingRefused(t *testing.T) {
	password := make(chan string, 1)
	password <- "old"
	n, err := natsnode.Start(natsnode.Options{Configure: func(o *server.Options) {
		o.Users = []*server.User{{Username: "u", Password: <-password}}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Shutdown)
	errs, back := make(chan error, 100), make(chan struct{}, 1)
	dial(t, connect.Options{
		URL: strings.Replace(n.URL(), "nats://", "nats://u:old@", 1), OnReconnect: func() { back <- struct{}{} },
		OnError: func(_ *nats.Conn, _ *nats.Subscription, err error) { errs <- err },
	})
	restart := func(with string) {
		t.Helper()
		password <- with
		if err := n.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	restart("new")
	if err := receive(t, errs); !errors.Is(err, nats.ErrAuthorization) || !strings.Contains(err.Error(), "--creds") || strings.Contains(err.Error(), "old") {
		t.Errorf("reported %v", err)
	}
	for ctx := within(t); ; { // nats.go would give up at the second refusal
		v, err := n.Server().Varz(nil)
		if err != nil || ctx.Err() != nil {
			t.Fatal(err, ctx.Err())
		}
		if v.TotalConnections >= 4 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if len(errs) > 0 {
		t.Errorf("reported again: %v", <-errs)
	}
	restart("old")
	receive(t, back)
}

func TestCancellingEndsConnectAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	url := silent(t)
	done := make(chan error, 1)
	go func() {
		_, _, err := connect.Connect(ctx, connect.Options{URL: url})
		done <- err
	}()
	cancel()
	if err := receive(t, done); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), url) {
		t.Fatalf("error %v", err)
	}
}

func TestContextOfTheNATSCommand(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	n := start(t, withUsers(&server.User{Username: "u", Password: "p"}))
	other := start(t, nil)
	writeContext(t, "prod", map[string]any{"url": n.URL(), "user": "u", "password": "p"}, true)
	writeContext(t, "domain", map[string]any{"url": n.URL(), "user": "u", "password": "p", "jetstream_domain": "hub"}, false)
	writeContext(t, "prefix", map[string]any{"url": n.URL(), "user": "u", "password": "p", "jetstream_api_prefix": "my.api"}, false)

	for name, c := range map[string]struct {
		o              connect.Options
		url            string
		domain, prefix string
	}{
		"named":                {o: connect.Options{Context: "prod"}, url: n.URL()},
		"selected":             {o: connect.Options{UseSelectedContext: true}, url: n.URL()},
		"JetStream domain":     {o: connect.Options{Context: "domain"}, url: n.URL(), domain: "hub"},
		"JetStream API prefix": {o: connect.Options{Context: "prefix"}, url: n.URL(), prefix: "my.api"},
		"URL before selected":  {o: connect.Options{URL: other.URL(), UseSelectedContext: true}, url: other.URL()},
		"URL before context's": {o: connect.Options{URL: other.URL(), Context: "prod"}, url: other.URL()},
	} {
		t.Run(name, func(t *testing.T) {
			nc, js := dial(t, c.o)
			if nc.ConnectedUrl() != c.url {
				t.Errorf("connected to %s, want %s", nc.ConnectedUrl(), c.url)
			}
			if got := js.Options(); got.Domain != c.domain || got.APIPrefix != c.prefix {
				t.Errorf("JetStream domain %q and API prefix %q, want %q and %q", got.Domain, got.APIPrefix, c.domain, c.prefix)
			}
		})
	}
}

func TestRefusedOperationIsAPermissionError(t *testing.T) {
	n := start(t, withUsers(&server.User{Username: "u", Password: "p", Permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Allow: []string{"ok.>"}}, Subscribe: &server.SubjectPermission{Allow: []string{"ok.>"}},
	}}))
	errs := make(chan error, 10)
	nc, _ := dial(t, connect.Options{
		URL:     strings.Replace(n.URL(), "nats://", "nats://u:p@", 1),
		OnError: func(_ *nats.Conn, _ *nats.Subscription, err error) { errs <- err },
	})
	for want, do := range map[string]func() error{
		"publish to":   func() error { return nc.Publish("no.a", nil) },
		"subscribe to": func() error { _, err := nc.SubscribeSync("no.a"); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
		err := receive(t, errs)
		var denied *connect.PermissionError
		if !errors.Is(err, connect.ErrPermission) || !errors.Is(err, nats.ErrPermissionViolation) || !errors.As(err, &denied) {
			t.Fatalf("%s: error %v", want, err)
		}
		if denied.Operation != want || denied.Subject != "no.a" {
			t.Errorf("%s: operation %q on %q", want, denied.Operation, denied.Subject)
		}
	}
}

func TestExplainKeepsWhatAnErrorMatches(t *testing.T) {
	for _, err := range []error{
		nats.ErrNoResponders, nats.ErrTimeout, context.DeadlineExceeded, jetstream.ErrJetStreamNotEnabledForAccount, errors.New("other"),
	} {
		if explained := connect.Explain(err); !errors.Is(explained, err) {
			t.Errorf("%v became %v", err, explained)
		}
	}
	if connect.Explain(nil) != nil {
		t.Error("no error became one")
	}
	once := connect.Explain(errors.New(`nats: permissions violation: Permissions Violation for Subscription to "a" using queue "q"`))
	if twice := connect.Explain(once); twice != once {
		t.Errorf("explained twice: %v", twice)
	}
}
