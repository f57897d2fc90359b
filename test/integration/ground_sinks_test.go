package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/subscription"
	"github.com/exesdb/subproxy/test/harness"
)

// limited is a ground whose instance is a user of its own, from which permissions can be taken. Its server
// is a process of its own: a nats-server (2.15.2) that reloads reads its options without a lock
// (stream.getDirectRequest), which the race detector would tell of. It is one server, with
// -ground.servers=3 too: what a user may do is between a client and its server.
type limited struct {
	*ground
	server *testbed.Server
}

// users are one who may do everything, whom all are that don't say who they are, and the instance.
func users(p *server.Permissions) []*server.User {
	return []*server.User{{Username: "admin", Password: "admin"}, {Username: "i", Password: "i", Permissions: p}}
}

func newLimited(t *testing.T, subscriptions ...config.Subscription) *limited {
	t.Helper()
	p, err := testbed.StartServer(t.Context(), testbed.ServerOptions{StoreDir: t.TempDir(), Users: users(&server.Permissions{}), NoAuthUser: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Shutdown)
	l := &limited{ground: groundOn(attach(t, p.URL()), subscriptions...), server: p}
	l.config.NATS.URL = strings.Replace(l.URL, "nats://", "nats://i:i@", 1)
	return l
}

// deny takes the permission to publish on subjects; none gives all back.
func (l *limited) deny(subjects ...string) {
	l.Helper()
	l.permit(&server.Permissions{Publish: &server.SubjectPermission{Deny: subjects}})
}

func (l *limited) permit(p *server.Permissions) {
	l.Helper()
	if err := l.server.Reload(l.Context(), users(p)); err != nil {
		l.Fatal(err)
	}
}

func (l *limited) awaitRefusing(name, reason string) {
	l.Helper()
	s := l.AwaitStatus(groundStore+"."+name, "be degraded for "+reason, func(s harness.Status) bool {
		return s.Health == "degraded" && strings.Contains(s.LastError, reason)
	})
	l.Logf("%s: %s", name, s.LastError)
}

func (l *limited) awaitHealthy(name string) {
	l.Helper()
	l.AwaitStatus(groundStore+"."+name, "be healthy", func(s harness.Status) bool { return s.Health == "healthy" && s.Registered })
}

func forwarded(name, sink, subject string) config.Subscription {
	s := allEvents(name)
	s.Forward = &config.Forward{Sink: sink, Subject: subject, Timeout: 30 * time.Second, MaxDeliver: 5}
	return s
}

func TestPublishWithoutPermissionAcknowledgesNothing(t *testing.T) {
	t.Parallel()
	for name, whileItRuns := range map[string]bool{"taken away": true, "denied from the start": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLimited(t)
			const subject = "exesdb.delivered.s.all"
			first := 0
			if whileItRuns {
				l.start()
				first = 10
				l.append(1, first)
				l.awaitDelivered("all", first)
				l.Eventually("the first events are in the checkpoint", func() bool { return l.checkpointOf("all") == uint64(first) })
				l.deny("exesdb.delivered.>")
			} else {
				l.deny("exesdb.delivered.>")
				l.start()
			}
			l.append(first+1, 1000)
			l.awaitRefusing("all", "not permitted to publish to "+subject)
			l.Eventually("an alert names the permission", func() bool {
				for _, a := range l.Alerts() {
					if a.Level == "warning" && strings.Contains(a.LastError, subject) {
						return true
					}
				}
				return false
			})
			if got := l.checkpointOf("all"); got != uint64(first) {
				t.Errorf("%d events are in the checkpoint, of which %d were delivered", got, first)
			}
			if n := l.logged("not permitted to publish to " + subject); n == 0 || n > 4 {
				t.Errorf("%d lines of the log have the permission", n)
			}
			l.deny()
			l.awaitDelivered("all", first+1000)
			l.awaitHealthy("all")
			l.Eventually("all are in the checkpoint", func() bool { return l.checkpointOf("all") == uint64(first+1000) })
		})
	}
}

// Of two subscriptions, the one that is not concerned goes on, and gets nothing twice.
func TestPermissionOfOneSinkIsNoneOfAnothersBusiness(t *testing.T) {
	t.Parallel()
	l := newLimited(t, allEvents("all"), forwarded("other", "publish", "exesdb.test.other"))
	l.deny("exesdb.test.other")
	l.start()
	for i := range 20 {
		l.append(1+i*50, 50)
	}
	l.awaitRefusing("other", "exesdb.test.other")
	l.awaitDelivered("all", 1000)
	l.deny()
	l.Eventually("the other has its events", func() bool { return len(l.Heard("exesdb.test.other")) >= 1000 })
	l.awaitHealthy("other")
	for i, n := range l.numbers(l.Heard("exesdb.test.other")) {
		if n != i+1 {
			t.Fatalf("number %d at place %d", n, i)
		}
	}
}

func TestRequestAndStreamSayAtOnceWhichPermissionIsMissing(t *testing.T) {
	t.Parallel()
	l := newLimited(t, forwarded("requested", "request", "exesdb.test.request"), forwarded("stored", "stream", "exesdb.test.stream"))
	l.createStream("OUT", "exesdb.test.stream")
	answers, err := l.NC.Subscribe("exesdb.test.request", func(m *nats.Msg) { _ = m.Respond(nil) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answers.Unsubscribe() }()
	l.start()
	l.append(1, 5)
	l.Eventually("both have the first", func() bool {
		return l.checkpointOf("requested") == 5 && l.checkpointOf("stored") == 5
	})
	l.deny("exesdb.test.>")
	begun := time.Now()
	l.append(6, 500)
	l.awaitRefusing("requested", "not permitted to publish to exesdb.test.request")
	l.awaitRefusing("stored", "not permitted to publish to exesdb.test.stream")
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("that took %v", took)
	}
	l.deny()
	l.Eventually("both have all", func() bool {
		return l.checkpointOf("requested") == 505 && l.checkpointOf("stored") == 505
	})
	l.awaitHealthy("requested")
	l.awaitHealthy("stored")
}

// The connection dies without being closed: nobody acknowledges what is in buffers that nobody reads.
func TestConnectionThatDiesUnseenLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer than the rest together")
	}
	t.Parallel()
	g := newGround(t, func(o *server.Options) { o.Cluster.NoAdvertise = true }) // there is one way to it, over the relay
	r := harness.NewRelay(t, g.node.URL())
	g.config.NATS.URL = r.URL()
	g.start()
	defer g.stop() // while it can reach the server
	const before, events = 10, 300
	g.append(1, before)
	g.awaitDelivered("all", before)
	for round := range 3 {
		from := before + 1 + round*(events/3)
		g.append(from, 10)
		r.Swallow()
		g.append(from+10, events/3-10)
		time.Sleep(300 * time.Millisecond)
		if got, has := g.checkpointOf("all"), len(g.distinct("all")); got > uint64(has) {
			t.Errorf("%d are acknowledged, and %d were delivered", got, has)
		}
		r.Cut()
		r.Mend()
		g.Eventually(fmt.Sprintf("all events of round %d are there", round), func() bool { return len(g.distinct("all")) == from+events/3-1 })
	}
	g.Eventually("all are in the checkpoint", func() bool { return g.checkpointOf("all") == before+events })
}

// checkpointOf is what a subscription to all events has accepted, as the emitter has written it down.
func (g *ground) checkpointOf(name string) uint64 {
	g.Helper()
	return g.checkpoint(subscription.Subscription{Store: groundStore, Type: subscription.ByStream, Selector: subscription.AllStreams, Name: name}.Key())
}

// distinct are the numbers of the events that the default sink of a subscription has published so far. Each
// has to come first in order.
func (g *ground) distinct(name string) (numbers []int) {
	g.Helper()
	for _, n := range g.numbers(g.delivered(name)) {
		switch {
		case n == len(numbers)+1:
			numbers = append(numbers, n)
		case n > len(numbers)+1:
			g.Fatalf("number %d comes after %d", n, len(numbers))
		}
	}
	return numbers
}

func (g *ground) createStream(name, subject string, change ...func(*jetstream.StreamConfig)) {
	g.Helper()
	c := jetstream.StreamConfig{Name: name, Subjects: []string{subject}}
	for _, f := range change {
		f(&c)
	}
	if _, err := g.JS.CreateStream(g.Context(), c); err != nil {
		g.Fatal(err)
	}
}

func TestUnfitTargetIsAStartUpErrorAndAReasonLater(t *testing.T) {
	t.Parallel()
	s := forwarded("stored", "stream", "exesdb.test.unfit")
	s.Forward.Timeout = 500 * time.Millisecond
	g := newGround(t, nil, s)
	g.createStream("OUT", "exesdb.test.unfit", func(c *jetstream.StreamConfig) { c.NoAck, c.Duplicates = true, time.Second })
	if err := g.tryStart(); err == nil || !strings.Contains(err.Error(), "nats stream edit OUT --ack") {
		t.Fatalf("it starts: %v", err)
	}
	noAck := func(is bool) func(*jetstream.StreamConfig) { return func(c *jetstream.StreamConfig) { c.NoAck = is } }
	g.editStream("OUT", noAck(false))
	g.start()
	if g.logged("a stream's duplicate window is shorter") != 1 || g.logged("--dupe-window=7s") != 1 { // 0.5 + 2.5 + 3 + 1
		t.Error("nothing is said of a duplicate window of a second")
	}
	g.append(1, 3)
	g.Eventually("all are accepted", func() bool { return g.checkpointOf("stored") == 3 })
	g.editStream("OUT", noAck(true))
	g.append(4, 3)
	g.AwaitStatus(groundStore+".stored", "say why", func(s harness.Status) bool { return strings.Contains(s.LastError, "no_ack") })
	bad := *g.config
	bad.Stores = []config.Store{store(groundStore, s, allEvents("another"))}
	if err := g.instance.Reload(&bad); err == nil || !strings.Contains(err.Error(), "no_ack") {
		t.Errorf("SIGHUP: %v", err)
	}
	g.editStream("OUT", noAck(false))
	g.Eventually("all are accepted", func() bool { return g.checkpointOf("stored") == 6 })
}

// A stream that stores a request sink's subject too answers each request unless it is no_ack, as any stream
// does, and nats stream edit of whatever else turns that off. An answer of nobody known is an answer.
func TestStreamThatAcknowledgesAnswersInPlaceOfASubscriber(t *testing.T) {
	t.Parallel()
	s := forwarded("asked", "request", "exesdb.test.archived")
	s.Forward.Timeout = 500 * time.Millisecond
	g := newGround(t, nil, s)
	noAck := func(is bool) func(*jetstream.StreamConfig) { return func(c *jetstream.StreamConfig) { c.NoAck = is } }
	g.createStream("ARCHIVE", "exesdb.test.archived", noAck(true))
	g.start()
	g.append(1, 3)
	g.AwaitStatus(groundStore+".asked", "wait for an answer", func(s harness.Status) bool { return strings.Contains(s.LastError, "no reply") })
	if n := g.checkpointOf("asked"); n != 0 {
		t.Errorf("nobody answers, and %d events are accepted", n)
	}
	g.editStream("ARCHIVE", noAck(false))
	g.Eventually("the stream's acknowledgements accept all", func() bool { return g.checkpointOf("asked") == 3 })
}

// Answers to emitters: what is accepted can't be acknowledged, and that is said with the permission's name.
func TestPermissionToAnswerIsNamedAndNothingIsLost(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	l.config.Status.EmitterSilentAfter = 2 * time.Second // how often it is looked
	l.start()
	l.append(1, 10)
	l.Eventually("the first events are in the checkpoint", func() bool { return l.checkpointOf("all") == 10 })
	l.deny("_INBOX.>")
	l.append(11, 1000)
	l.awaitRefusing("all", "not permitted to publish to _INBOX.")
	if n := l.logged("not permitted to publish to _INBOX."); n > 6 {
		t.Errorf("%d lines of the log have the permission", n)
	}
	if got := l.checkpointOf("all"); got != 10 {
		t.Errorf("%d are in the checkpoint, and only 10 could be acknowledged", got)
	}
	l.deny()
	l.awaitDelivered("all", 1010)
	l.Eventually("all are in the checkpoint", func() bool { return l.checkpointOf("all") == 1010 })
}
