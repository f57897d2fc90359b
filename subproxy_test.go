package subproxy_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/exesdb/subproxy"
	"github.com/exesdb/subproxy/internal/natsnode"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connected(t *testing.T) *nats.Conn {
	t.Helper()
	node, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir(), Configure: func(o *server.Options) { o.JetStreamDomain = "hub" }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Shutdown)
	nc, err := nats.Connect(node.URL(), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func open(t *testing.T, nc *nats.Conn, o subproxy.Options, subs ...subproxy.Subscription) *subproxy.Instance {
	t.Helper()
	i, err := subproxy.Open(t.Context(), nc, o, subs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Stop(context.Background()) })
	return i
}

var all = subproxy.Subscription{Store: "s", Type: subproxy.ByStream, Selector: subproxy.AllStreams, Name: "all"}

func TestZeroOptionsPublishEventsAndTellStatuses(t *testing.T) {
	nc := connected(t)
	delivered, err := nc.SubscribeSync("exesdb.delivered.s.>")
	if err != nil {
		t.Fatal(err)
	}
	i := open(t, nc, subproxy.Options{}, all)
	emitting(t, nc, 2)
	for _, want := range []string{"1", "2"} {
		m, err := delivered.NextMsg(20 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Header.Get("Exesdb-Seq"); m.Subject != "exesdb.delivered.s.all" || got != want {
			t.Errorf("event %s on %s, not %s", got, m.Subject, want)
		}
	}
	await(t, i, func(all []subproxy.Status) bool { return len(all) == 1 && all[0].Verified && all[0].Name == "all" })
}

func TestDomainIsTheOneThatIsNamed(t *testing.T) {
	nc := connected(t)
	for _, o := range []subproxy.Options{{Domain: "hub"}, {APIPrefix: "$JS.hub.API"}} {
		i := open(t, nc, o, all)
		await(t, i, func(all []subproxy.Status) bool { return len(all) == 1 && all[0].Verified })
		i.Stop(context.Background())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if i, err := subproxy.Open(ctx, nc, subproxy.Options{Domain: "nowhere"}, all); err == nil {
		i.Stop(context.Background())
		t.Error("opened in a domain that no server has")
	}
}

func TestApplyChangesTheSubscriptions(t *testing.T) {
	i := open(t, connected(t), subproxy.Options{Name: "mine"}, all)
	more := all
	more.Name = "more"
	if err := i.Apply(t.Context(), all, more); err != nil {
		t.Fatal(err)
	}
	await(t, i, func(all []subproxy.Status) bool { return len(all) == 2 && all[0].Verified && all[1].Verified })
	if err := i.Apply(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	await(t, i, func(all []subproxy.Status) bool { return len(all) == 1 && all[0].Name == "more" })
}

func TestWrongSubscriptionsAreNamed(t *testing.T) {
	i := open(t, connected(t), subproxy.Options{}, all)
	unnamed, odd := all, all
	unnamed.Name = ""
	odd.Type, odd.Selector = subproxy.ByEventPayload, "[1]"
	for _, test := range []struct {
		subs []subproxy.Subscription
		want string
	}{
		{[]subproxy.Subscription{all, all}, `s/all: store "s" has another of that name`},
		{[]subproxy.Subscription{unnamed}, "name"},
		{[]subproxy.Subscription{odd}, "s/all: "},
	} {
		if err := i.Apply(t.Context(), test.subs...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v", test.subs, err)
		}
	}
	await(t, i, func(all []subproxy.Status) bool { return len(all) == 1 })
}

func TestEventThatTheHandlerCannotTakeNowComesAgain(t *testing.T) {
	nc := connected(t)
	calls := make(chan uint64, 8)
	open(t, nc, subproxy.Options{MaxDeliver: 1, Handler: func(_ context.Context, _ subproxy.Subscription, e *subproxy.Event) error {
		calls <- e.Sequence
		if len(calls) == 1 {
			return errors.Join(subproxy.ErrUnavailable, errors.New("the database restarts"))
		}
		return nil
	}}, all)
	emitting(t, nc, 1)
	deadline := time.After(20 * time.Second)
	for len(calls) < 2 {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			t.Fatalf("the handler was called %d times", len(calls))
		}
	}
}

func await(t *testing.T, i *subproxy.Instance, ok func([]subproxy.Status) bool) {
	t.Helper()
	var last []subproxy.Status
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if last, err = i.Statuses(t.Context()); err == nil && ok(last) {
			return
		}
	}
	t.Fatalf("%+v, %v", last, err)
}

// emitting has an emitter of store s run beside the test, with so many events.
func emitting(t *testing.T, nc *nats.Conn, events int) {
	t.Helper()
	stop, err := emit(t.Context(), nc, "s", events)
	if stop != nil {
		t.Cleanup(stop)
	}
	if err != nil {
		t.Fatal(err)
	}
}
