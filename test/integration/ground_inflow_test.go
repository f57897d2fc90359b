package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/config"
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
	g.await(key, "registered", func(r record) bool { s.subject = r.DeliverSubject; return true })
	var err error
	if s.replies, err = g.nc.SubscribeSync(g.nc.NewInbox()); err != nil {
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
	if err := s.nc.PublishMsg(m); err != nil {
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
	m, err := s.replies.NextMsg(patience)
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
		if strings.HasPrefix(strings.ToLower(name), "exesdb-") && name != "Exesdb-Seq" && name != "Exesdb-Incarnation" {
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
	if _, err := g.nc.Subscribe("in.all", func(m *nats.Msg) { _ = m.Respond(nil) }); err != nil {
		t.Fatal(err)
	}
	s.answered("+ACK 2")
}

// TestGroundSlowSubscriberAcknowledgesEach: an event that was accepted is acknowledged though the next ones are under way.
func TestGroundSlowSubscriberAcknowledgesEach(t *testing.T) {
	t.Parallel()
	g := apart(t, requesting("all"))
	accepted := make(chan struct{})
	if _, err := g.nc.Subscribe("in.all", func(m *nats.Msg) {
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
	g.eventually("all are acknowledged", func() bool {
		m, err := s.replies.NextMsg(patience)
		return err == nil && string(m.Data) == "+ACK 150"
	})
}

// TestGroundRestartRepeatsNothing: what the sink has in hand when a proxy is restarted is finished, and the next run goes on after it.
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
			if _, err := g.nc.Subscribe("in.all", func(m *nats.Msg) {
				got <- decode[struct{ N int }](g, m.Data).N
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
					case <-time.After(patience):
						t.Fatalf("event %d did not come", want)
					}
				}
			}
			incarnation := uint64(1)
			for r := range 8 {
				receive(r * 45)
				if a := g.askOne("restart", `{"store":"s","name":"all"}`); a.Verified != 1 {
					t.Fatalf("restart: %+v", a)
				}
				g.await(allKey, "another incarnation", func(r record) bool {
					before := incarnation
					incarnation = max(incarnation, r.Incarnation)
					return r.Incarnation > before
				})
			}
			receive(events)
			g.eventually("all is acknowledged", func() bool { return g.checkpoint(allKey) > 0 })
			if len(got) > 0 {
				t.Errorf("%d more came", len(got))
			}
		})
	}
}

// TestGroundRestartWaitsForNobodyWhoHangs: a subscriber that does not answer keeps a restart from happening for its time-out.
func TestGroundRestartWaitsForNobodyWhoHangs(t *testing.T) {
	t.Parallel()
	all := requesting("all")
	all.Forward.Timeout = time.Second
	g := newGround(t, nil, all)
	g.start()
	got := make(chan *nats.Msg, 100)
	if _, err := g.nc.Subscribe("in.all", func(m *nats.Msg) { got <- m }); err != nil {
		t.Fatal(err)
	}
	g.append(1, 2)
	<-got
	a, b := make(chan answer), make(chan answer)
	for _, c := range []chan answer{a, b} { // the second while the first waits
		go func() { c <- g.askOne("restart", `{"store":"s","name":"all"}`) }()
	}
	for _, c := range []chan answer{a, b} {
		if a := <-c; a.Verified != 1 || a.Proxies[0].Incarnation != 2 && a.Proxies[0].Incarnation != 3 {
			t.Errorf("restart: %+v", a)
		}
	}
	if m := <-got; m.Header.Get("Exesdb-Seq") != "1" {
		t.Errorf("after the restart came %v", m.Header)
	}
}
