package sink

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"github.com/exesdb/subproxy/pkg/event"
)

func TestWhatNoSinkCanBeMadeOfIsAConfigurationError(t *testing.T) {
	for _, c := range []Config{
		{}, {Kind: "email", Subject: "a"}, {Kind: Handler}, {Kind: Publish}, {Kind: Request, Subject: "a..b"}, {Kind: Stream, Subject: "a.*"},
		{Kind: Publish, Subject: "a.>"}, {Kind: Publish, Subject: "a b"}, {Kind: Publish, Subject: "a\r\nb"}, {Kind: Publish, Subject: ".a"},
	} {
		if _, err := New(nil, c); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: got %v", c, err)
		}
	}
	for kind, want := range map[Kind]bool{Publish: false, Request: true, Stream: true, Handler: true} {
		if (Config{Kind: kind}).Blocks() != want {
			t.Errorf("%s: may wait: %v", kind, !want)
		}
	}
}

func TestPublishedEventIsAsItCameAndAsksForNoReply(t *testing.T) {
	w := start(t, nil)
	sub := w.subscribe("out")
	s, e := w.sink(Publish, "out"), newEvent(1, `{"area":12}`)
	for range 2 { // the same one can be delivered again
		if err := s.Deliver(w.ctx, e); err != nil {
			t.Fatal(err)
		}
		m := w.next(sub)
		if m.Reply != "" || string(m.Data) != `{"area":12}` || m.Header.Get("traceparent") == "" || m.Header.Get(event.TypeHeader) != "initialized:v1" {
			t.Errorf("got %+v", m)
		}
	}
}

func TestEventLargerThanTheServerTakesIsRefused(t *testing.T) {
	w := start(t, func(o *server.Options) { o.MaxPayload = 2048 })
	w.replies("out", func(m *nats.Msg) *nats.Msg { return nats.NewMsg(m.Reply) })
	for _, kind := range []Kind{Publish, Request, Stream} {
		reason, final, ok := refused(w.sink(kind, "out").Deliver(w.ctx, newEvent(1, strings.Repeat("x", 4096))))
		if !ok || final || !strings.Contains(reason, "max_payload 2048") {
			t.Errorf("%s: refused %v, for good %v: %s", kind, ok, final, reason)
		}
		bad := newEvent(1, "")
		bad.Message.Header["no: header"] = []string{"x"}
		if reason, final, ok := refused(w.sink(kind, "out").Deliver(w.ctx, bad)); !ok || !final {
			t.Errorf("%s: a bad header: refused %v, for good %v: %s", kind, ok, final, reason)
		}
	}
}

func TestOutageRefusesNothing(t *testing.T) {
	w := start(t, nil)
	gone := make(chan struct{})
	w.nc.SetDisconnectErrHandler(func(*nats.Conn, error) { close(gone) })
	w.node.Stop()
	<-gone
	for _, kind := range []Kind{Publish, Request, Stream} {
		s, err := New(w.js, Config{Kind: kind, Subject: "out", Timeout: 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		err = s.Deliver(w.ctx, newEvent(1, ""))
		if _, _, ok := refused(err); err == nil || ok {
			t.Errorf("%s: got %v", kind, err)
		}
	}
}

func TestReplyDecides(t *testing.T) {
	w := start(t, nil)
	for _, c := range []struct {
		name   string
		header nats.Header
		body   string
		reason string // empty: accepted
		final  bool
		// The incarnation is to blame, and not the event.
		superseded bool
	}{
		{name: "nothing"},
		{name: "an acknowledgement", body: "+ACK"},
		{name: "a result", body: `{"ok":true}`},
		{name: "a refusal that is not at the beginning", body: "so -NAK"},
		{name: "a negative acknowledgement", body: "-NAK", reason: "gave no reason"},
		{name: "one with a reason", body: "-NAK  no such\n greenhouse ", reason: "no such greenhouse"},
		{name: "an error", body: "-ERR broken", reason: "broken"},
		{name: "a termination", body: "+TERM malformed", reason: "malformed", final: true},
		{name: "a service's error", header: nats.Header{micro.ErrorCodeHeader: {"422"}, micro.ErrorHeader: {"no area"}}, body: "{}", reason: "422 no area"},
		{name: "a code alone", header: nats.Header{micro.ErrorCodeHeader: {"500"}}, reason: "500"},
		{name: "a text alone", header: nats.Header{micro.ErrorHeader: {"no"}}, reason: "no"},
		{name: "a word like it", body: "-ERR supersededness", reason: "supersededness"},
		{name: "a later incarnation", body: "-ERR superseded", superseded: true},
		{name: "a later incarnation that is named", body: "-ERR superseded 7", superseded: true},
		{name: "a service's later incarnation", header: nats.Header{micro.ErrorCodeHeader: {"409"}, micro.ErrorHeader: {"superseded"}}, superseded: true},
	} {
		subject := "in." + strings.ReplaceAll(c.name, " ", "_")
		w.replies(subject, func(m *nats.Msg) *nats.Msg {
			return &nats.Msg{Subject: m.Reply, Header: c.header, Data: []byte(c.body)}
		})
		err := w.sink(Request, subject).Deliver(w.ctx, newEvent(1, "{}"))
		reason, final, ok := refused(err)
		if errors.Is(err, ErrSuperseded) != c.superseded {
			t.Errorf("%s: got %v", c.name, err)
		}
		if (c.reason == "" && !c.superseded) != (err == nil) || ok != (c.reason != "") || final != c.final || !strings.Contains(reason, c.reason) {
			t.Errorf("%s: got %v, for good %v", c.name, err, final)
		}
	}
}

func TestServiceOfMicroIsASubscriber(t *testing.T) {
	w := start(t, nil)
	service, err := micro.AddService(w.nc, micro.Config{Name: "greenhouses", Version: "1.0.0", Endpoint: &micro.EndpointConfig{
		Subject: "in", Handler: micro.HandlerFunc(func(r micro.Request) {
			if r.Headers().Get(event.TypeHeader) == "initialized:v1" && len(r.Data()) == 0 {
				_ = r.Error("400", "no data", nil)
				return
			}
			_ = r.Respond(nil)
		}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer service.Stop()
	s := w.sink(Request, "in")
	if err := s.Deliver(w.ctx, newEvent(1, "{}")); err != nil {
		t.Error(err)
	}
	if reason, _, ok := refused(s.Deliver(w.ctx, newEvent(2, ""))); !ok || reason != "400 no data" {
		t.Errorf("refused %v: %s", ok, reason)
	}
}

func TestAbsentSubscriberRefusesNothing(t *testing.T) {
	w := start(t, nil)
	deliver := func(ctx context.Context, kind Kind) error {
		s, err := New(w.js, Config{Kind: kind, Subject: "in", Timeout: 30 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return s.Deliver(ctx, newEvent(1, "{}"))
	}
	if err := deliver(w.ctx, Request); !errors.Is(err, ErrNoSubscriber) || err.Error() != "no subscriber listens on in" {
		t.Errorf("nobody: %v", err)
	}
	w.subscribe("in") // listens and does not reply
	for _, kind := range []Kind{Request, Stream} {
		if err := deliver(w.ctx, kind); !errors.Is(err, ErrNoReply) || !strings.HasSuffix(err.Error(), "on in within 30ms") {
			t.Errorf("%s that nobody answers: %v", kind, err)
		}
		ended, cancel := context.WithCancel(w.ctx)
		cancel()
		if err := deliver(ended, kind); !errors.Is(err, context.Canceled) {
			t.Errorf("%s after the end: %v", kind, err)
		}
	}
}

func TestHandlerSaysWhoIsToBlame(t *testing.T) {
	cause := errors.New("no area")
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		name             string
		ctx              context.Context
		err              error
		isRefused, final bool
	}{
		{"accepted", context.Background(), nil, false, false},
		{"refused", context.Background(), cause, true, false},
		{"refused for good", context.Background(), fmt.Errorf("handle: %w", &RefusedError{Reason: "no area", Final: true}), true, true},
		{"of an older incarnation", context.Background(), fmt.Errorf("handle: %w", ErrSuperseded), false, false},
		{"the database is away", context.Background(), fmt.Errorf("%w: no database", ErrUnavailable), false, false},
		{"ended", ended, cause, false, false},
	} {
		var got *event.Event
		err := HandlerFunc(func(_ context.Context, e *event.Event) error { got = e; return c.err }).Deliver(c.ctx, newEvent(7, "{}"))
		reason, final, ok := refused(err)
		if (err == nil) != (c.err == nil) || ok != c.isRefused || final != c.final || ok && reason != "no area" {
			t.Errorf("%s: got %v", c.name, err)
		}
		if got.Store != "green house" || got.Sequence != 7 || got.Type != "initialized:v1" || got.Stream != "greenhouse.1" || string(got.Data) != "{}" {
			t.Errorf("%s: handled %+v", c.name, got)
		}
	}
	unreadable := &Event{Store: "s", Subscription: "n", Message: &nats.Msg{}}
	err := HandlerFunc(func(context.Context, *event.Event) error { t.Error("handled what is not an event"); return nil }).Deliver(context.Background(), unreadable)
	if _, final, ok := refused(err); !ok || !final || !errors.Is(err, event.ErrNotAnEvent) {
		t.Errorf("not an event: %v", err)
	}
}

func TestStreamStoresEachEventOfEachSubscriptionOnce(t *testing.T) {
	w := start(t, nil)
	w.stream(jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out.>"}})
	s := w.sink(Stream, "out.events")
	deliver := func(e *Event) {
		t.Helper()
		if err := s.Deliver(w.ctx, e); err != nil {
			t.Error(err)
		}
	}
	for range 2 { // the second time the acknowledgement had got lost
		deliver(newEvent(1, "a"))
		deliver(newEvent(2, "b"))
	}
	other := newEvent(1, "a")
	other.Subscription = "another"
	deliver(other)
	deliver(&Event{Store: "s", Subscription: "n", Sequence: 1, Message: &nats.Msg{}}) // no headers at all
	if n := w.stored("OUT"); n != 4 {
		t.Errorf("%d are stored, not 4", n)
	}
	for _, id := range []string{"x", "y", "x", "", ""} { // no sequence: what has no id either is stored as often as it comes
		e := newEvent(0, id)
		e.Message.Header[event.IDHeader] = []string{id}
		deliver(e)
	}
	if n := w.stored("OUT"); n != 8 {
		t.Errorf("with those that have no sequence %d are stored, not 8", n)
	}
	out, err := w.js.Stream(w.ctx, "OUT")
	if err != nil {
		t.Fatal(err)
	}
	m, err := out.GetMsg(w.ctx, 2)
	if err != nil || m.Header.Get(jetstream.MsgIDHeader) != "green=20house/to=2Epubsub/2" || string(m.Data) != "b" || m.Header.Get(event.TypeHeader) == "" {
		t.Errorf("stored %+v, %v", m, err)
	}
}

// An instance that wakes up late repeats what it had in hand, under the incarnation that was superseded.
func TestStreamDropsWhatAnOlderIncarnationRepeats(t *testing.T) {
	w := start(t, nil)
	w.stream(jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out.>"}, AllowAtomicPublish: true})
	of := func(incarnation, sequence uint64) *Event {
		e := newEvent(sequence, "")
		e.Incarnation, e.Epoch = incarnation, "1763881200123456789"
		e.Message.Header[event.IncarnationHeader] = []string{strconv.FormatUint(incarnation, 10)}
		return e
	}
	const events = 80
	batch := func(incarnation uint64) (all []*Event) {
		for sequence := range uint64(events) {
			all = append(all, of(incarnation, sequence+1))
		}
		return all
	}
	older, newer := w.sink(Stream, "out.events"), w.sink(Stream, "out.events")
	for _, e := range batch(2) {
		if err := newer.Deliver(w.ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := older.Deliver(w.ctx, of(1, 1)); err != nil {
		t.Errorf("one by itself: %v", err)
	}
	for late := batch(1); len(late) > 0; { // as a worker does: what is not accepted together goes by itself
		n, _ := older.(Batcher).DeliverBatch(w.ctx, late)
		if n == 0 {
			if err := older.Deliver(w.ctx, late[0]); err != nil {
				t.Fatal(err)
			}
			n = 1
		}
		late = late[n:]
	}
	out, err := w.js.Stream(w.ctx, "OUT")
	if err != nil {
		t.Fatal(err)
	}
	if n := w.stored("OUT"); n != events {
		t.Errorf("%d are stored, not %d", n, events)
	}
	for sequence := range uint64(events) {
		if m, err := out.GetMsg(w.ctx, sequence+1); err != nil || m.Header.Get(event.IncarnationHeader) != "2" {
			t.Errorf("stored %+v, %v", m, err)
		}
	}
}

func TestStreamRefusesWhatItWillNeverTake(t *testing.T) {
	w := start(t, nil)
	w.stream(jetstream.StreamConfig{Name: "SMALL", Subjects: []string{"small"}, MaxMsgSize: 1024})
	w.stream(jetstream.StreamConfig{Name: "FULL", Subjects: []string{"full"}, MaxMsgs: 1, Discard: jetstream.DiscardNew})
	if reason, final, ok := refused(w.sink(Stream, "small").Deliver(w.ctx, newEvent(1, strings.Repeat("x", 2048)))); !ok || final || !strings.Contains(reason, "size exceeds maximum") {
		t.Errorf("too large: refused %v, for good %v: %s", ok, final, reason)
	}
	wide := newEvent(2, "")
	wide.Message.Header["wide"] = []string{strings.Repeat("x", 70<<10)}
	if reason, _, ok := refused(w.sink(Stream, "full").Deliver(w.ctx, wide)); !ok || !strings.Contains(reason, "header size exceeds") {
		t.Errorf("too large a header: refused %v: %s", ok, reason)
	}
	full := w.sink(Stream, "full")
	if err := full.Deliver(w.ctx, newEvent(3, "")); err != nil {
		t.Fatal(err)
	}
	err := full.Deliver(w.ctx, newEvent(4, ""))
	if _, _, ok := refused(err); err == nil || ok {
		t.Errorf("a full stream is not the event's fault: %v", err)
	}
}

func TestMissingStreamIsToldWithWhatMendsIt(t *testing.T) {
	w := start(t, nil)
	c := Config{Kind: Stream, Subject: "out.events"}
	for what, err := range map[string]error{"check": Check(w.ctx, w.js, c), "deliver": w.sink(Stream, c.Subject).Deliver(w.ctx, newEvent(1, ""))} {
		if !errors.Is(err, ErrNoStream) || !strings.Contains(err.Error(), "out.events") || !strings.Contains(err.Error(), "forward.subject") ||
			what == "check" && !strings.Contains(err.Error(), "nats stream add NAME --subjects='out.events'") {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.stream(jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out.>"}})
	for _, c := range []Config{c, {Kind: Publish, Subject: "nobody"}, {Kind: Request, Subject: "nobody"}, {Kind: Handler}} {
		if err := Check(w.ctx, w.js, c); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := Check(w.ctx, w.js, Config{Kind: Stream, Subject: "*"}); !errors.Is(err, ErrConfig) {
		t.Errorf("a wildcard: %v", err)
	}
	if err := w.node.DisableJetStream(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.ctx, time.Second)
	defer cancel()
	if err := Check(ctx, w.js, c); err == nil || errors.Is(err, ErrNoStream) || !strings.Contains(err.Error(), "forward.subject") {
		t.Errorf("without JetStream: %v", err)
	}
}
