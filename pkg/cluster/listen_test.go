package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"go.uber.org/goleak"

	"github.com/exesdb/subproxy/internal/natsnode"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*Server).internalSendLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.0.func1"))
}

const patience = 20 * time.Second

func startNode(t *testing.T) *natsnode.Node {
	t.Helper()
	n, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Shutdown)
	return n
}

func connect(t *testing.T, n *natsnode.Node) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// ears is one instance: a listener on a connection of its own, and what it heard.
type ears struct {
	*Listener
	nc      *nats.Conn
	events  chan Event
	deleted chan struct{}
	log     *lines
}

func listen(t *testing.T, n *natsnode.Node, cfg Config) *ears {
	t.Helper()
	e := &ears{nc: connect(t, n), events: make(chan Event, 1000), deleted: make(chan struct{}, 10), log: &lines{}}
	cfg.OnEvent = func(event Event) { e.events <- event }
	cfg.OnDeleted = func() { e.deleted <- struct{}{} }
	cfg.Logger = slog.New(slog.NewTextHandler(e.log, nil))
	l, err := Listen(e.nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.Listener = l
	t.Cleanup(func() { _ = l.Close() })
	flush(t, e.nc)
	return e
}

func flush(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
}

func publish(t *testing.T, nc *nats.Conn, subject, body string) {
	t.Helper()
	if err := nc.Publish(subject, []byte(body)); err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
}

func next[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing was heard")
		panic("unreachable")
	}
}

// drained returns what was heard up to a last event, which it sends for that: a subscription keeps order,
// and what was published before it has been heard when it is.
func drained(t *testing.T, e *ears) []Event {
	t.Helper()
	end := nuid.Next()
	publish(t, e.nc, LeaderChangedSubject, fmt.Sprintf(`{"reason":%q}`, end))
	var events []Event
	for {
		event := next(t, e.events)
		if event.Reason == end {
			return events
		}
		// Another listener's end is none of this one's events.
		if len(event.Reason) != len(end) || strings.Contains(event.Reason, " ") {
			events = append(events, event)
		}
	}
}

// lines counts log lines.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.b.String(), "\n"), "\n")
}

var both = Config{LeaderChangedSubject: LeaderChangedSubject, EmitterRestartedSubject: EmitterRestartedSubject}

func TestBothEventsAreHeard(t *testing.T) {
	n := startNode(t)
	e := listen(t, n, both)
	sender := connect(t, n)
	before := time.Now()
	publish(t, sender, LeaderChangedSubject, `{"store":"s","leader":"n2","term":3}`)
	if got := next(t, e.events); got.Kind != LeaderChanged || got.Store != "s" || got.Leader != "n2" || got.Term != 3 || got.SeenAt.Before(before) {
		t.Errorf("got %+v", got)
	}
	publish(t, sender, EmitterRestartedSubject, `{"store":"s","topic":"$all"}`)
	if got := next(t, e.events); got.Kind != EmitterRestarted || got.Topic != "$all" {
		t.Errorf("got %+v", got)
	}
}

func TestSameEventOfAStoreIsHeardEachTime(t *testing.T) {
	n := startNode(t)
	e := listen(t, n, both)
	for range 2 {
		publish(t, e.nc, LeaderChangedSubject, `{"id":"same","store":"s"}`)
	}
	if got := drained(t, e); len(got) != 2 {
		t.Errorf("heard %+v", got)
	}
}

func TestMalformedEventsAreAllHeardAndLoggedOnce(t *testing.T) {
	n := startNode(t)
	e := listen(t, n, both)
	for i := range 100 {
		publish(t, e.nc, LeaderChangedSubject, fmt.Sprintf("no JSON %d %s", i, strings.Repeat("x", 300)))
	}
	got := drained(t, e)
	if len(got) != 100 || slices.ContainsFunc(got, func(e Event) bool { return !e.Malformed || e.Store != "" }) {
		t.Errorf("heard %d: %+v", len(got), got)
	}
	logged := e.log.all()
	if len(logged) != 1 || !strings.Contains(logged[0], "no JSON 0") || !strings.Contains(logged[0], LeaderChangedSubject) || len(logged[0]) > 600 {
		t.Errorf("logged %q", logged)
	}
}

// electionAdvisory is what nats-server 2.15 publishes when a stream's RAFT group has elected a leader.
func electionAdvisory(id, stream, leader string) string {
	return fmt.Sprintf(`{"type":"io.nats.jetstream.advisory.v1.stream_leader_elected","id":%q,"timestamp":"2026-11-23T07:00:00.1Z",
"stream":%q,"leader":%q,"replicas":[{"name":%q,"current":true,"active":0,"peer":"yrzKKRBu"},{"name":"n2","current":true,"active":1},
{"name":"n3","current":false,"offline":true,"active":2}],"account":"$G"}`, id, stream, leader, leader)
}

func TestElectionIsHeardOnceByEachAndAnnouncedOnce(t *testing.T) {
	n := startNode(t)
	cfg := both
	cfg.Bridge = []Bridged{{Stream: "KV_r", Kind: LeaderChanged}, {Stream: "EVENTS", Store: "s", Kind: EmitterRestarted}, {Stream: "ORDERS", Store: "o", Kind: LeaderChanged}}
	listeners := []*ears{listen(t, n, cfg), listen(t, n, cfg)}
	outsider := connect(t, n)
	announced := make(chan *nats.Msg, 100)
	for _, subject := range []string{LeaderChangedSubject, EmitterRestartedSubject} {
		if _, err := outsider.ChanSubscribe(subject, announced); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, outsider)
	for i, c := range []struct {
		stream, leader string
		want           Event
	}{
		{"KV_r", "n1", Event{Kind: LeaderChanged}},
		{"EVENTS", "n2", Event{Kind: EmitterRestarted, Store: "s", Emitter: "n2"}},
		{"ORDERS", "n3", Event{Kind: LeaderChanged, Store: "o", Leader: "n3"}},
	} {
		id := nuid.Next()
		publish(t, outsider, leaderElected+c.stream, electionAdvisory(id, c.stream, c.leader))
		c.want.ID, c.want.Reason = id, fmt.Sprintf("JetStream elected %s leader of stream %s", c.leader, c.stream)
		onWire := next(t, announced)
		got := Decode(c.want.Kind, onWire.Data, time.Time{})
		if !got.Enveloped {
			t.Errorf("%d: announced without a type: %s", i, onWire.Data)
		}
		got.Enveloped = false // an advisory has none
		if got != c.want {
			t.Errorf("%d: announced %+v\nwant %+v", i, got, c.want)
		}
		for _, l := range listeners {
			got := next(t, l.events)
			got.SeenAt, got.Enveloped = time.Time{}, false // the announcement may be heard before the advisory
			if got != c.want {
				t.Errorf("%d: heard %+v\nwant %+v", i, got, c.want)
			}
		}
	}
	for i, l := range listeners {
		if got := drained(t, l); len(got) != 0 {
			t.Errorf("listener %d heard besides: %+v", i, got)
		}
	}
	flush(t, outsider)
	for range listeners { // the ends that drained sent
		next(t, announced)
	}
	if len(announced) != 0 {
		t.Errorf("announced besides: %s", (<-announced).Data)
	}
}

func TestStreamBridgedToSeveralStoresIsAnnouncedForEach(t *testing.T) {
	n := startNode(t)
	cfg := both
	cfg.Bridge = []Bridged{{Stream: "EVENTS", Store: "a", Kind: LeaderChanged}, {Stream: "EVENTS", Store: "b", Kind: LeaderChanged}}
	listeners := []*ears{listen(t, n, cfg), listen(t, n, cfg)}
	outsider := listen(t, n, both)
	publish(t, outsider.nc, leaderElected+"EVENTS", electionAdvisory(nuid.Next(), "EVENTS", "n1"))
	for _, l := range append(listeners, outsider) {
		stores := []string{next(t, l.events).Store, next(t, l.events).Store}
		slices.Sort(stores)
		if !slices.Equal(stores, []string{"a", "b"}) {
			t.Errorf("heard of %v", stores)
		}
	}
}

func TestUnreadableAdvisoryIsAnElectionAllTheSame(t *testing.T) {
	n := startNode(t)
	cfg := both
	cfg.Bridge = []Bridged{{Stream: "KV_r", Kind: LeaderChanged}}
	e := listen(t, n, cfg)
	publish(t, e.nc, leaderElected+"KV_r", "?")
	if got := next(t, e.events); got.Kind != LeaderChanged || got.Store != "" || !strings.Contains(got.Reason, "KV_r") {
		t.Errorf("got %+v", got)
	}
}

func TestElectionOfAnotherStreamIsNone(t *testing.T) {
	n := startNode(t)
	cfg := both
	cfg.Bridge = []Bridged{{Stream: "KV_r", Kind: LeaderChanged}}
	e := listen(t, n, cfg)
	publish(t, e.nc, leaderElected+"OTHER", electionAdvisory("i", "OTHER", "n1"))
	if got := drained(t, e); len(got) != 0 {
		t.Errorf("heard %+v", got)
	}
}

// A server that has removed a stream may end the stream's loop before that has sent the advisory: some are
// never sent.
func TestDeletionOfTheStreamIsTold(t *testing.T) {
	n := startNode(t)
	cfg := both
	cfg.Deleted = "KV_r"
	e := listen(t, n, cfg)
	js, err := e.nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	remove := func(stream string) {
		t.Helper()
		if _, err := js.AddStream(&nats.StreamConfig{Name: stream, Subjects: []string{stream + ".>"}, Storage: nats.MemoryStorage}); err != nil {
			t.Fatal(err)
		}
		if err := js.DeleteStream(stream); err != nil {
			t.Fatal(err)
		}
	}
	remove("OTHER")
	flush(t, e.nc)
	if len(e.deleted) > 0 {
		t.Error("the deletion of another stream was told")
	}
	for deadline := time.Now().Add(patience); ; {
		remove("KV_r")
		select {
		case <-e.deleted:
			return
		case <-time.After(time.Second):
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was heard")
		}
	}
}

func TestWithoutSubjectsNothingIsListenedToOrAnnounced(t *testing.T) {
	n := startNode(t)
	e := listen(t, n, Config{})
	if subs := e.nc.NumSubscriptions(); subs != 0 {
		t.Errorf("%d subscriptions", subs)
	}
	if err := e.Announce(Event{Kind: LeaderChanged}); err != nil {
		t.Error(err)
	}
}

func TestCloseUnsubscribes(t *testing.T) {
	n := startNode(t)
	cfg := both
	cfg.Bridge, cfg.Deleted = []Bridged{{Stream: "KV_r", Kind: LeaderChanged}}, "KV_r"
	e := listen(t, n, cfg)
	if subs := e.nc.NumSubscriptions(); subs != 5 {
		t.Errorf("%d subscriptions", subs)
	}
	for range 2 {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	publish(t, e.nc, LeaderChangedSubject, "{}")
	if subs := e.nc.NumSubscriptions(); subs != 0 || len(e.events) != 0 {
		t.Errorf("%d subscriptions, %d events", subs, len(e.events))
	}
}

func TestListenOnAClosedConnectionFails(t *testing.T) {
	n := startNode(t)
	nc := connect(t, n)
	nc.Close()
	if _, err := Listen(nc, both); err == nil || !strings.Contains(err.Error(), LeaderChangedSubject) {
		t.Errorf("got %v", err)
	}
}

func TestAnnouncedEventIsHeard(t *testing.T) {
	n := startNode(t)
	e := listen(t, n, both)
	nc := connect(t, n)
	want := Event{Kind: LeaderChanged, ID: "i", Store: "s", Leader: "b", PreviousLeader: "a", Term: 7, Reason: "expired", Enveloped: true}
	if err := Announce(nc, LeaderChangedSubject, want); err != nil {
		t.Fatal(err)
	}
	got := next(t, e.events)
	if got.SeenAt = want.SeenAt; got != want {
		t.Errorf("heard %+v", got)
	}
	nc.Close()
	if err := Announce(nc, LeaderChangedSubject, want); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("on a closed connection: %v", err)
	}
}

// TestElectionsOfAnotherDomainAreNotHeard sends the election that is heard last: a subscription keeps order.
func TestElectionsOfAnotherDomainAreNotHeard(t *testing.T) {
	n := startNode(t)
	hub, none := "hub", ""
	for _, c := range []struct {
		own    *string
		others []string
		heard  string
	}{{&hub, []string{"leaf", ""}, "hub"}, {&none, []string{"leaf", "hub"}, ""}, {nil, nil, "leaf"}} {
		e := listen(t, n, Config{Domain: c.own, Bridge: []Bridged{{Stream: "S", Kind: EmitterRestarted, Store: "s"}}})
		for _, domain := range append(c.others, c.heard) {
			publish(t, e.nc, leaderElected+"S", fmt.Sprintf(`{"id":"of %s","leader":"n1","domain":%q}`, domain, domain))
		}
		if got := next(t, e.events); got.ID != "of "+c.heard {
			t.Errorf("of domain %v: %+v", c.own, got)
		}
		_ = e.Close()
	}
}
