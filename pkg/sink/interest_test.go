package sink

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// sentBytes is what the server got so far.
func (w *world) sentBytes() int64 {
	w.Helper()
	v, err := w.node.Server().Varz(nil)
	if err != nil {
		w.Fatal(err)
	}
	return v.InBytes
}

func TestLargeEventIsNotSentToWhereNobodyListens(t *testing.T) {
	w := start(t, nil)
	large := func(n uint64) *Event {
		e := newEvent(n, "")
		e.Message.Data = bytes.Repeat([]byte("x"), 500<<10)
		return e
	}
	for kind, absent := range map[Kind]error{Request: ErrNoSubscriber, Stream: ErrNoStream} {
		subject := "to." + string(kind)
		s := w.sink(kind, subject)
		before := w.sentBytes()
		var all sync.WaitGroup
		for n := range uint64(200) {
			all.Go(func() {
				if err := s.Deliver(w.ctx, large(n+1)); !errors.Is(err, absent) {
					t.Errorf("%s: %v", kind, err)
				}
			})
		}
		all.Wait()
		// A busy machine may leave a probe or two unanswered for too long; each lets one event through.
		if n := w.sentBytes() - before; n > 2000<<10 {
			t.Errorf("%s: 200 attempts sent %d bytes", kind, n)
		}
		if err := s.Deliver(w.ctx, newEvent(1, "small")); !errors.Is(err, absent) || errors.Is(err, ErrNotSent) {
			t.Errorf("%s, a small one: %v", kind, err)
		}
		got := make(chan *nats.Msg, 100)
		if kind == Request {
			if _, err := w.nc.Subscribe(subject, func(m *nats.Msg) { got <- m; _ = m.Respond(nil) }); err != nil {
				t.Fatal(err)
			}
		} else {
			w.stream(jetstream.StreamConfig{Name: "S", Subjects: []string{subject}})
			if _, err := w.nc.ChanSubscribe(subject, got); err != nil {
				t.Fatal(err)
			}
		}
		// Whoever comes is found with the next probe, and never gets one.
		deadline := time.Now().Add(10 * time.Second)
		for s.Deliver(w.ctx, large(7)) != nil {
			if time.Now().After(deadline) {
				t.Fatalf("%s: whoever came is not found", kind)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if m := <-got; len(m.Data) != 500<<10 || len(got) > 0 {
			t.Errorf("%s: got %d bytes, %v, and %d more", kind, len(m.Data), m.Header, len(got))
		}
	}
	if stream, err := w.js.Stream(w.ctx, "S"); err != nil || stream.CachedInfo().State.Msgs != 1 {
		t.Errorf("the stream has %+v, %v", stream.CachedInfo().State, err)
	}
}

func TestSubscriberWhoLeavesIsSentOneLargeEvent(t *testing.T) {
	w := start(t, nil)
	s := w.sink(Request, "in")
	sub, err := w.nc.Subscribe("in", func(m *nats.Msg) { _ = m.Respond(nil) })
	if err != nil {
		t.Fatal(err)
	}
	e := newEvent(1, "")
	e.Message.Data = make([]byte, 500<<10)
	if err := s.Deliver(w.ctx, e); err != nil {
		t.Fatal(err)
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	before := w.sentBytes()
	for range 50 {
		if err := s.Deliver(w.ctx, e); !errors.Is(err, ErrNoSubscriber) {
			t.Errorf("nobody is there: %v", err)
		}
	}
	if n := w.sentBytes() - before; n < 500<<10 || n > 2000<<10 {
		t.Errorf("50 attempts sent %d bytes, not one event's, or few", n)
	}
}

// TestProbeFindsWhoeverListens: by a wildcard, in a queue group, and one who does not answer.
func TestProbeFindsWhoeverListens(t *testing.T) {
	w := start(t, nil)
	for subject, listen := range map[string]func() (*nats.Subscription, error){
		"a.wild":  func() (*nats.Subscription, error) { return w.nc.SubscribeSync("a.*") },
		"b.queue": func() (*nats.Subscription, error) { return w.nc.QueueSubscribeSync("b.queue", "q") },
		"c.mute":  func() (*nats.Subscription, error) { return w.nc.SubscribeSync("c.mute") },
	} {
		i := &interest{nc: w.nc, subject: subject}
		if !i.nobody(w.ctx) {
			t.Errorf("%s: somebody is found", subject)
		}
		sub, err := listen()
		if err != nil {
			t.Fatal(err)
		}
		if i.absent = (time.Time{}); i.nobody(w.ctx) {
			t.Errorf("%s: nobody is found", subject)
		}
		if n, _, _ := sub.Pending(); n > 0 {
			t.Errorf("%s: the probe was delivered", subject)
		}
	}
	for version, want := range map[string]bool{"2.10.29": false, "2.11.0": true, "2.15.2": true, "3.0.0-beta": true, "": false, "x": false, "1.99.0": false} {
		if traces(version) != want {
			t.Errorf("%q: %t", version, !want)
		}
	}
}
