package integration

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/test/harness"
)

const allKey = "s.by_stream.=24all.all"

// requesting is a subscription to all events that requests its subscriber's word on in.<name>.
func requesting(name string) config.Subscription {
	s := allEvents(name)
	s.Forward = &config.Forward{Sink: "request", Subject: "in." + name, Timeout: 2 * time.Second, MaxDeliver: 5}
	return s
}

// sender is an emitter of one's own, which knows subjects.md and nothing else.
type sender struct {
	*ground
	subject string // of delivery
	replies *nats.Subscription
}

// newSender begins to send to the subscription of that key. No emitter is hosted.
func (g *ground) newSender(key string) *sender {
	g.Helper()
	s := &sender{ground: g}
	g.Await(key, "registered", func(r harness.Record) bool { s.subject = r.DeliverSubject; return true })
	var err error
	if s.replies, err = g.NC.SubscribeSync(g.NC.NewInbox()); err != nil {
		g.Fatal(err)
	}
	return s
}

// send sends one event, or a question; headers are name, value, name, value.
func (s *sender) send(data string, headers ...string) {
	s.Helper()
	m := &nats.Msg{Subject: s.subject, Reply: s.replies.Subject, Header: nats.Header{}, Data: []byte(data)}
	for i := 0; i < len(headers); i += 2 {
		m.Header[headers[i]] = []string{headers[i+1]}
	}
	if err := s.NC.PublishMsg(m); err != nil {
		s.Fatal(err)
	}
}

// event sends event n after the one before it.
func (s *sender) event(n int) {
	s.Helper()
	s.send(fmt.Sprintf(`{"n":%d}`, n), "Exesdb-Seq", fmt.Sprint(n), "Exesdb-Prev", fmt.Sprint(n-1), "Exesdb-Term", "42")
}

func (s *sender) answered(want string) {
	s.Helper()
	m, err := s.replies.NextMsg(harness.Patience)
	if err != nil {
		s.Fatalf("no answer, wanted %q: %v", want, err)
	}
	if string(m.Data) != want {
		s.Errorf("answered %q, want %q", m.Data, want)
	}
}

// apart is a ground whose store has an emitter of the test's own.
func apart(t *testing.T, subscriptions ...config.Subscription) *ground {
	g := newGround(t, nil, subscriptions...)
	g.config.Emitter.Enabled = false
	g.start()
	return g
}

func TestGroundHeadersInAnotherCaseKeepTheirGuarantees(t *testing.T) {
	t.Parallel()
	g := apart(t)
	s := g.newSender(allKey)
	s.send(`{"n":1}`, "exesdb-seq", "1", "exesdb-term", "42", "exesdb-prev", "0")
	s.answered("+ACK 1")
	s.send(`{"n":1}`, "EXESDB-SEQ", "1", "Exesdb-Term", "42", "exesdb-prev", "0")
	s.answered("+ACK 1")
	s.send(`{"n":9}`, "Exesdb-seq", "3", "exesdb-term", "42", "exesdb-prev", "2")
	s.answered("-NAK 1")
	s.send(`{"n":9}`, "exesdb-seq", "2", "exesdb-term", "41", "exesdb-prev", "1")
	s.answered("-ERR stale_term 42")
	s.send("", "exesdb-seq", "0", "exesdb-term", "42")
	s.answered("+ACK 1")
	s.answered("-NAK 1")
	g.awaitDelivered("all", 1)
	for name := range g.delivered("all")[0].Header {
		if strings.HasPrefix(strings.ToLower(name), "exesdb-") && name != "Exesdb-Seq" && name != "Exesdb-Incarnation" && name != "Exesdb-Subscription" {
			t.Errorf("forwarded with %s", name)
		}
	}
}

func TestGroundWhatCannotBeReadIsRefusedAndLoggedOnceAMinute(t *testing.T) {
	t.Parallel()
	g := apart(t)
	s := g.newSender(allKey)
	for _, headers := range [][]string{
		{"Exesdb-Seq", "0"}, {"exesdb-seq", "0"}, {"Exesdb-Seq", "+1"}, {"Exesdb-Seq", "01"}, {"Exesdb-Seq", ""},
		{"Exesdb-Seq", "1", "Exesdb-Prev", "+0"}, {"Exesdb-Seq", "1", "Exesdb-Term", "18446744073709551616"},
	} {
		for range 10 {
			s.send(`{"n":1}`, headers...)
			s.answered("-ERR malformed")
		}
	}
	s.send("", "Exesdb-Seq", "0")
	s.answered("-NAK 0")
	s.event(1)
	s.answered("+ACK 1")
	g.awaitDelivered("all", 1)
	if n := g.logged("can't be read"); n != 1 || g.logged("a question has no data") != 1 {
		t.Errorf("70 malformed events are %d lines", n)
	}
	if n := g.metric("events_received_total", "verdict=malformed"); n != 70 {
		t.Errorf("counted are %v", n)
	}
}

func TestGroundDuplicateIsAnsweredBeforeAnythingIsAccepted(t *testing.T) {
	t.Parallel()
	g := apart(t, requesting("all"))
	s := g.newSender(allKey)
	for range 2 {
		s.event(1)
		s.event(2)
	}
	s.answered("+ACK 0")
	s.answered("+ACK 0")
	if _, err := g.NC.Subscribe("in.all", func(m *nats.Msg) { _ = m.Respond(nil) }); err != nil {
		t.Fatal(err)
	}
	s.answered("+ACK 2")
}

// TestGroundSlowSubscriberAcknowledgesEach: an event that was accepted is acknowledged though the next ones
// are under way.
func TestGroundSlowSubscriberAcknowledgesEach(t *testing.T) {
	t.Parallel()
	g := apart(t, requesting("all"))
	accepted := make(chan struct{})
	if _, err := g.NC.Subscribe("in.all", func(m *nats.Msg) {
		<-accepted
		_ = m.Respond(nil)
	}); err != nil {
		t.Fatal(err)
	}
	s := g.newSender(allKey)
	for n := range 150 {
		s.event(n + 1)
	}
	for n := range 3 {
		accepted <- struct{}{}
		s.answered(fmt.Sprintf("+ACK %d", n+1))
	}
	close(accepted)
	g.Eventually("all are acknowledged", func() bool {
		m, err := s.replies.NextMsg(harness.Patience)
		return err == nil && string(m.Data) == "+ACK 150"
	})
}

// TestGroundRestartRepeatsNothing: what the sink has in hand when a proxy is restarted is finished, and the
// next run goes on after it.
func TestGroundRestartRepeatsNothing(t *testing.T) {
	t.Parallel()
	for name, apart := range map[string]bool{"hosted emitter": false, "emitter apart": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGround(t, nil, requesting("all"))
			if apart {
				g.config.Emitter.Enabled = false
				g.emit(g.config)
			}
			g.start()
			got := make(chan int, 1000)
			if _, err := g.NC.Subscribe("in.all", func(m *nats.Msg) {
				got <- harness.Decode[struct{ N int }](g, m.Data).N
				time.Sleep(2 * time.Millisecond) // longer than it takes to register anew
				_ = m.Respond(nil)
			}); err != nil {
				t.Fatal(err)
			}
			const events = 400
			appended := make(chan struct{})
			go func() {
				defer close(appended)
				for n := range events {
					g.append(n+1, 1)
					time.Sleep(2 * time.Millisecond)
				}
			}()
			defer func() { <-appended }()
			want := 1
			receive := func(until int) {
				t.Helper()
				for ; want <= until; want++ {
					select {
					case n := <-got:
						if n != want {
							t.Fatalf("event %d came, after %d", n, want-1)
						}
					case <-time.After(harness.Patience):
						t.Fatalf("event %d did not come", want)
					}
				}
			}
			incarnation := uint64(1)
			for r := range 8 {
				receive(r * 45)
				if a := g.AskOne("restart", `{"store":"s","name":"all"}`); a.Verified != 1 {
					t.Fatalf("restart: %+v", a)
				}
				g.Await(allKey, "another incarnation", func(r harness.Record) bool {
					before := incarnation
					incarnation = max(incarnation, r.Incarnation)
					return r.Incarnation > before
				})
			}
			receive(events)
			g.Eventually("all is acknowledged", func() bool { return g.checkpoint(allKey) > 0 })
			if len(got) > 0 {
				t.Errorf("%d more came", len(got))
			}
		})
	}
}

// TestGroundRestartWaitsForNobodyWhoHangs: a subscriber that does not answer keeps a restart from happening
// for its time-out.
func TestGroundRestartWaitsForNobodyWhoHangs(t *testing.T) {
	t.Parallel()
	all := requesting("all")
	all.Forward.Timeout = time.Second
	g := newGround(t, nil, all)
	g.start()
	got := make(chan *nats.Msg, 100)
	if _, err := g.NC.Subscribe("in.all", func(m *nats.Msg) { got <- m }); err != nil {
		t.Fatal(err)
	}
	g.append(1, 2)
	<-got
	a, b := make(chan harness.Answer), make(chan harness.Answer)
	for _, c := range []chan harness.Answer{a, b} { // the second while the first waits
		go func() { c <- g.AskOne("restart", `{"store":"s","name":"all"}`) }()
	}
	for _, c := range []chan harness.Answer{a, b} {
		if a := <-c; a.Verified != 1 || a.Proxies[0].Incarnation != 2 && a.Proxies[0].Incarnation != 3 {
			t.Errorf("restart: %+v", a)
		}
	}
	if m := <-got; m.Header.Get("Exesdb-Seq") != "1" {
		t.Errorf("after the restart came %v", m.Header)
	}
}

// replying has a subscriber on a subject whose word is always the same.
func (g *ground) replying(subject, word string) {
	g.Helper()
	if _, err := g.NC.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond([]byte(word)) }); err != nil {
		g.Fatal(err)
	}
}

// parkedCount is how many events are parked.
func (g *ground) parkedCount() uint64 {
	stream, err := g.JS.Stream(g.Context(), "EXESDB_PARKED")
	if err != nil {
		return 0
	}
	return stream.CachedInfo().State.Msgs
}

// TestGroundWhatAKillRepeatsIsParkedOnce: the next run is sent again what the one before parked, under
// another incarnation.
func TestGroundWhatAKillRepeatsIsParkedOnce(t *testing.T) {
	t.Parallel()
	g := apart(t, requesting("all"))
	g.replying("in.all", "+TERM no")
	for run := range 2 {
		s := g.newSender(allKey)
		s.send("", "Exesdb-Seq", "0", "Exesdb-Term", "42", "Exesdb-Epoch", "7")
		s.answered("-NAK 0")
		for n := range 20 {
			s.event(n + 1)
		}
		g.Eventually("all are parked", func() bool {
			m, err := s.replies.NextMsg(harness.Patience)
			return err == nil && string(m.Data) == "+ACK 20"
		})
		if n := g.parkedCount(); n != 20 {
			t.Errorf("after run %d, %d events are parked, not 20", run, n)
		}
		g.stop()
		g.start()
	}
	stream, err := g.JS.Stream(t.Context(), "EXESDB_PARKED")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.GetMsg(t.Context(), 20); err != nil || m.Header.Get("Nats-Msg-Id") != allKey+"/7/20" {
		t.Errorf("the last one is %v, %v", m, err)
	}
}

func TestGroundPoisonIsNoFlood(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil, requesting("all"))
	g.replying("in.all", "+TERM no")
	g.start()
	g.append(1, 2000)
	g.Eventually("all are parked", func() bool { return g.parkedCount() == 2000 })
	g.Eventually("all are counted", func() bool { return g.metric("events_parked_total") >= 2000 }) // the last acknowledgements are on their way
	if n := g.metric("events_parked_total"); n != 2000 {
		t.Errorf("counted are %v", n)
	}
	if n := g.logged("parked"); n > 2 {
		t.Errorf("2000 parked events are %d lines", n)
	}
}

// TestGroundFullParkedStreamHoldsItsSubscriptions: a line and an alert, not one for each of 100
// subscriptions and each attempt; and they go on when there is room.
func TestGroundFullParkedStreamHoldsItsSubscriptions(t *testing.T) {
	t.Parallel()
	const subscriptions = 100
	var all []config.Subscription
	for n := range subscriptions {
		s := requesting(fmt.Sprintf("r%d", n))
		s.Forward.Subject = "in.refusing"
		all = append(all, s)
	}
	g := newGround(t, nil, append(all, allEvents("well"))...)
	if _, err := g.JS.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "EXESDB_PARKED", Subjects: []string{"exesdb.parked.>"}, AllowDirect: true, MaxMsgs: 1, Discard: jetstream.DiscardNew, Storage: jetstream.MemoryStorage,
	}); err != nil {
		t.Fatal(err)
	}
	var accepts atomic.Bool
	if _, err := g.NC.Subscribe("in.refusing", func(m *nats.Msg) {
		if accepts.Load() {
			_ = m.Respond(nil)
		} else {
			_ = m.Respond([]byte("+TERM no"))
		}
	}); err != nil {
		t.Fatal(err)
	}
	g.start()
	g.append(1, 2)
	g.awaitDelivered("well", 2)
	named := func(a harness.Alert) bool { return strings.Contains(a.LastError, "stream EXESDB_PARKED is full") }
	g.Eventually("an alert names the stream", func() bool {
		for _, a := range g.Alerts() {
			if a.Level == "warning" && a.Scope == "store" && named(a) {
				return true
			}
		}
		return false
	})
	g.AwaitStatus("s.r7", "why it is held", func(s harness.Status) bool {
		return s.Health == "degraded" && strings.Contains(s.LastError, "stream EXESDB_PARKED is full") && strings.Contains(s.LastError, "no")
	})
	g.Eventually("they are tried again and again", func() bool { return g.metric("forward_errors_total") > 5*subscriptions })
	if n := g.logged("level=WARN") + g.logged("level=ERROR"); n > 10 {
		t.Errorf("%d warnings and errors", n)
	}
	if n := g.parkedCount(); n != 1 {
		t.Errorf("%d are parked", n)
	}
	g.editStream("EXESDB_PARKED", func(c *jetstream.StreamConfig) { c.MaxMsgs = -1 })
	g.Eventually("all are parked", func() bool { return g.parkedCount() == 2*subscriptions })
	accepts.Store(true)
	g.append(3, 1)
	g.Eventually("the alert is resolved", func() bool {
		alerts := g.Alerts()
		raised := 0
		for _, a := range alerts {
			switch {
			case a.Level == "warning" && named(a):
				raised = 1
			case a.Level == "resolved" && a.Scope == "store" && raised == 1:
				raised = 2
			}
		}
		return raised == 2
	})
}

// large appends an event of so many bytes, number n.
func (g *ground) large(n, size int) {
	g.Helper()
	g.appendMessage(&nats.Msg{Subject: "exesdb.events.s.o-1.created", Data: fmt.Appendf(nil, `{"n":%d,"x":"%s"}`, n, strings.Repeat("x", size))})
}

// sent is how many bytes the server got from its clients so far.
func (g *ground) sent() int64 {
	g.Helper()
	v, err := g.node.Server().Varz(nil)
	if err != nil {
		g.Fatal(err)
	}
	return v.InBytes
}

// TestGroundLargeEventGoesWhereSomebodyListens: retries to subscribers that are not there don't send it
// again and again, and whoever comes gets nothing but the event, soon.
func TestGroundLargeEventGoesWhereSomebodyListens(t *testing.T) {
	t.Parallel()
	const subscriptions, size = 100, 300 << 10
	var all []config.Subscription
	for n := range subscriptions {
		s := requesting(fmt.Sprintf("r%d", n))
		if n%2 == 0 {
			s.Forward.Subject = "in.shared"
		}
		all = append(all, s)
	}
	g := newGround(t, nil, append(all, allEvents("well"))...)
	g.start()
	before := g.sent()
	g.large(1, size)
	g.awaitDelivered("well", 1)
	retried := g.metric("forward_errors_total") + 5*subscriptions
	g.Eventually("they are tried again and again", func() bool { return g.metric("forward_errors_total") > retried })
	if n := g.sent() - before; n > 10*size {
		t.Errorf("%d attempts sent %d bytes", 5*subscriptions, n)
	}
	var got, odd atomic.Int64
	if _, err := g.NC.Subscribe("in.*", func(m *nats.Msg) {
		if m.Header.Get("Exesdb-Seq") == "1" && len(m.Data) > size {
			got.Add(1)
		} else {
			odd.Add(1)
		}
		_ = m.Respond(nil)
	}); err != nil {
		t.Fatal(err)
	}
	g.Eventually("all have it", func() bool { return got.Load() == subscriptions })
	if n := odd.Load(); n > 0 {
		t.Errorf("%d strange messages came", n)
	}
}
