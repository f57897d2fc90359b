package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/sink"
)

// page is how many parked events are read at once.
const page = 256

func (w *world) parkedStream() jetstream.Stream {
	w.Helper()
	s, err := w.js.Stream(w.ctx, deadletter.Stream)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func (w *world) open() *deadletter.Store {
	w.Helper()
	l, err := deadletter.Open(w.ctx, w.js, deadletter.Config{Memory: true})
	if err != nil {
		w.Fatal(err)
	}
	return l
}

func (w *world) park(l *deadletter.Store, e *sink.Event, c sink.Config) {
	w.Helper()
	if err := sink.Park(w.ctx, l, e, c, "no area", 5); err != nil {
		w.Fatal(err)
	}
}

func (w *world) list(l *deadletter.Store, store, name string) (parked []deadletter.Parked) {
	w.Helper()
	for p, err := range l.List(w.ctx, store, name) {
		if err != nil {
			w.Fatal(err)
		}
		parked = append(parked, p)
	}
	return parked
}

func TestParkedEventIsAsItCameAndSaysWhy(t *testing.T) {
	w := start(t, nil)
	l := w.open()
	e := newEvent(42, "data")
	e.Message.Header["Nats-Msg-Id"] = []string{"of the stream sink"}
	e.Message.Header["Nats-Rollup"] = []string{"all"} // would empty a stream that allows it
	before := time.Now()
	if err := sink.Park(w.ctx, l, e, sink.Config{Kind: sink.Request, Subject: "in", MaxDeliver: 5}, " no\r\narea\x00 ", 5); err != nil {
		t.Fatal(err)
	}
	got := w.list(l, "", "")
	if len(got) != 1 || got[0].At.Before(before.Add(-time.Second)) || got[0].At.After(time.Now().Add(time.Second)) {
		t.Fatalf("got %+v", got)
	}
	want := deadletter.Parked{
		Sequence: 1, Store: "green house", Subscription: "to.pubsub", StoreSequence: 42, Incarnation: 3, Sink: "request", Subject: "in", Attempts: 5,
		Reason: "no area", At: got[0].At, Data: []byte("data"),
		Header: nats.Header{
			event.IDHeader: {"id-1"}, event.TypeHeader: {"initialized:v1"}, event.SubjectHeader: {"greenhouse.1"}, "traceparent": {"00-1-2-01"},
			"Exesdb-Seq": {"42"}, "Exesdb-Incarnation": {"3"},
		},
	}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Error(diff)
	}
	if e.Message.Header.Get(deadletter.ReasonHeader) != "" || e.Message.Header.Get("Nats-Rollup") == "" {
		t.Errorf("the event's own headers were changed: %v", e.Message.Header)
	}
	raw, err := w.parkedStream().GetMsg(w.ctx, 1)
	if err != nil || raw.Subject != "exesdb.parked.green=20house.to=2Epubsub" || raw.Header.Get("Exesdb-Parked-Sink") != "request" || raw.Header.Get("Exesdb-Parked-Attempts") != "5" {
		t.Errorf("stored %+v, %v", raw, err)
	}
	if cfg := w.parkedStream().CachedInfo().Config; !cfg.AllowDirect || cfg.Replicas != 1 || cfg.Storage != jetstream.MemoryStorage {
		t.Errorf("the stream is %+v", cfg)
	}
}

func TestParkingIsRepeatable(t *testing.T) {
	w := start(t, nil)
	l, c := w.open(), sink.Config{Kind: sink.Publish, Subject: "in"}
	for range 3 {
		w.park(l, newEvent(1, ""), c)
	}
	if n := len(w.list(l, "", "")); n != 1 {
		t.Errorf("parked thrice, there %d times", n)
	}
	later := newEvent(1, "")
	later.Incarnation++
	w.park(l, later, c)
	if got := w.list(l, "", ""); len(got) != 1 {
		t.Errorf("of another incarnation: %+v", got)
	}
	for dropped := uint64(1); dropped < 3; dropped++ {
		if err := l.Drop(w.ctx, dropped); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			w.park(l, newEvent(1, ""), c) // JetStream still remembers the one that was dropped
		}
		if got := w.list(l, "", ""); len(got) != 1 || got[0].Sequence != dropped+1 {
			t.Errorf("refused again after it was dropped: %+v", got)
		}
	}
	w.park(l, newEvent(2, ""), c)
	for _, id := range []string{"x", "y", "x"} { // of a sender that gives no sequence
		e := newEvent(0, "")
		e.Message.Header[event.IDHeader] = []string{id}
		w.park(l, e, c)
	}
	got := w.list(l, "", "")
	if len(got) != 4 || got[2].StoreSequence != 0 || got[2].Header.Get(event.SequenceHeader) != "" {
		t.Errorf("without a sequence: %+v", got)
	}
	if err := w.js.DeleteStream(w.ctx, deadletter.Stream); err != nil {
		t.Fatal(err)
	}
	w.park(l, newEvent(1, ""), c)
	if n := len(w.list(l, "", "")); n != 1 {
		t.Errorf("after the stream was deleted by hand: %d are there", n)
	}
}

func TestEventTooLargeForTheStreamIsParkedInPart(t *testing.T) {
	w := start(t, func(o *server.Options) { o.MaxPayload = 128 << 10 })
	l, c := w.open(), sink.Config{Kind: sink.Publish, Subject: "in"}
	for name, change := range map[string]func(*sink.Event){
		"data":    func(e *sink.Event) { e.Message.Data = make([]byte, 128<<10) },
		"headers": func(e *sink.Event) { e.Message.Header["wide"] = []string{strings.Repeat("x", 70<<10)} },
		"both": func(e *sink.Event) {
			e.Message.Data, e.Message.Header["wide"] = make([]byte, 128<<10), []string{strings.Repeat("x", 70<<10)}
		},
		"bad header":  func(e *sink.Event) { e.Message.Header["a b: c"] = []string{"x"} },
		"long stream": func(e *sink.Event) { e.Message.Header[event.SubjectHeader] = []string{strings.Repeat("x", 70<<10)} },
	} {
		e := newEvent(1, "data")
		e.Subscription = name
		change(e)
		w.park(l, e, c)
		got := w.list(l, "", name)
		if len(got) != 1 || !got[0].Truncated || got[0].Reason != "no area" || got[0].StoreSequence != 1 || got[0].Type() != "initialized:v1" || got[0].StreamID() == "" {
			t.Fatalf("%s: got %+v", name, got)
		}
		if hasData := string(got[0].Data) == "data"; hasData != (len(e.Message.Data) == 4) {
			t.Errorf("%s: %d bytes of data are left", name, len(got[0].Data))
		}
		if err := sink.Replay(w.ctx, l, got[0], w.sink(sink.Publish, "in")); !errors.Is(err, deadletter.ErrTruncated) {
			t.Errorf("%s: replayed: %v", name, err)
		}
	}
}

func TestListPagesAndNarrows(t *testing.T) {
	w := start(t, nil)
	l := w.open()
	const events = 2*page + 3
	for i := range uint64(events) {
		m := newEvent(i+1, "").Message
		m.Subject = []string{"exesdb.parked.green=20house.to=2Epubsub", "exesdb.parked.other.to=2Epubsub"}[i%2]
		m.Reply = ""
		if _, err := w.js.PublishMsgAsync(m); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-w.js.PublishAsyncComplete():
	case <-w.ctx.Done():
		t.Fatal(w.ctx.Err())
	}
	for _, c := range []struct {
		store, name string
		want        int
	}{{"", "", events}, {"other", "", events / 2}, {"green house", "to.pubsub", events - events/2}, {"", "to.pubsub", events}, {"other", "nobody", 0}, {"nowhere", "", 0}} {
		got := w.list(l, c.store, c.name)
		if len(got) != c.want || !slices.IsSortedFunc(got, func(a, b deadletter.Parked) int { return int(a.Sequence) - int(b.Sequence) }) {
			t.Errorf("%q %q: %d, not %d", c.store, c.name, len(got), c.want)
		}
	}
	for p, err := range l.List(w.ctx, "", "") { // what is parked meanwhile is not waited for, and a list can be left
		if err != nil || p.Sequence != 1 {
			t.Fatalf("%+v, %v", p, err)
		}
		break
	}
	ended, cancel := context.WithCancel(w.ctx)
	cancel()
	for _, err := range l.List(ended, "", "") {
		if err == nil {
			t.Error("listed after the end")
		}
	}
}

func TestReplayedEventGoesWhereItWasToGoAndIsGoneOnceAccepted(t *testing.T) {
	w := start(t, nil)
	w.stream(jetstream.StreamConfig{Name: "OUT", Subjects: []string{"stored"}})
	l, published := w.open(), w.subscribe("published")
	refuses := true
	w.replies("requested", func(m *nats.Msg) *nats.Msg {
		if refuses {
			return &nats.Msg{Subject: m.Reply, Data: []byte("-ERR still no area")}
		}
		return nats.NewMsg(m.Reply)
	})
	for i, c := range []sink.Config{{Kind: sink.Publish, Subject: "published"}, {Kind: sink.Request, Subject: "requested"}, {Kind: sink.Stream, Subject: "stored"}, {Kind: sink.Handler}} {
		w.park(l, newEvent(uint64(i)+1, "data"), c)
	}
	replay := func() (errs []error) {
		t.Helper()
		for _, p := range w.list(l, "", "") {
			s, err := sink.New(w.js, sink.ParkedConfig(&p))
			if err == nil {
				err = sink.Replay(w.ctx, l, p, s)
			}
			errs = append(errs, err)
		}
		return errs
	}
	errs := replay()
	if reason, _, ok := refused(errs[1]); errs[0] != nil || errs[2] != nil || !ok || reason != "still no area" || !errors.Is(errs[3], sink.ErrConfig) {
		t.Errorf("got %v", errs)
	}
	m := w.next(published)
	want := nats.Header{
		event.IDHeader: {"id-1"}, event.TypeHeader: {"initialized:v1"}, event.SubjectHeader: {"greenhouse.1"}, "traceparent": {"00-1-2-01"},
		"Exesdb-Seq": {"1"},
	}
	if diff := cmp.Diff(want, m.Header); diff != "" || string(m.Data) != "data" {
		t.Errorf("%q %s", m.Data, diff)
	}
	if n := w.stored("OUT"); n != 1 {
		t.Errorf("%d are stored", n)
	}
	refuses = false
	if errs := replay(); len(errs) != 2 || errs[0] != nil || !errors.Is(errs[1], sink.ErrConfig) {
		t.Errorf("the second time: %v", errs)
	}
	left := w.list(l, "", "")
	if len(left) != 1 {
		t.Fatalf("left: %+v", left)
	}
	handle := sink.HandlerFunc(func(_ context.Context, e *event.Event) error {
		if e.Sequence != 4 || e.Store != "green house" || string(e.Data) != "data" {
			return fmt.Errorf("what is %+v", e)
		}
		return l.Drop(w.ctx, left[0].Sequence) // by somebody else, meanwhile
	})
	if err := sink.Replay(w.ctx, l, left[0], handle); err != nil || len(w.list(l, "", "")) != 0 {
		t.Errorf("by a handler: %v", err)
	}
}

func TestReplayToAForbiddenSubjectLosesNothing(t *testing.T) {
	w := start(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "subproxy", Password: "subproxy", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"forbidden"}}}}}
	})
	l := w.open()
	w.park(l, newEvent(1, ""), sink.Config{Kind: sink.Publish, Subject: "forbidden"})
	err := sink.Replay(w.ctx, l, w.list(l, "", "")[0], w.sink(sink.Publish, "forbidden"))
	if !errors.Is(err, nats.ErrPermissionViolation) || len(w.list(l, "", "")) != 1 {
		t.Errorf("got %v", err)
	}
}

func TestMarkerOfWhatExpiredIsNotParked(t *testing.T) {
	w := start(t, nil)
	l := w.open()
	w.park(l, newEvent(1, "one"), sink.Config{Kind: sink.Request, Subject: "in"})
	for range page + 1 {
		marker := &nats.Msg{Subject: "exesdb.parked.green=20house.to=2Epubsub", Header: nats.Header{"Nats-Marker-Reason": {"MaxAge"}}}
		if _, err := w.js.PublishMsgAsync(marker); err != nil {
			t.Fatal(err)
		}
	}
	<-w.js.PublishAsyncComplete()
	w.park(l, newEvent(2, "two"), sink.Config{Kind: sink.Request, Subject: "in"})
	if got := w.list(l, "", ""); len(got) != 2 || got[1].StoreSequence != 2 {
		t.Errorf("listed %+v", got)
	}
	if _, err := l.Get(w.ctx, 2); !errors.Is(err, deadletter.ErrNotParked) {
		t.Errorf("the marker is there: %v", err)
	}
}

func TestAbsentStreamIsEmpty(t *testing.T) {
	w := start(t, nil)
	l, err := deadletter.OpenExisting(w.ctx, w.js)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.list(l, "", ""); got != nil {
		t.Errorf("got %v", got)
	}
	if err := l.Drop(w.ctx, 1); !errors.Is(err, deadletter.ErrNotParked) {
		t.Errorf("drop: %v", err)
	}
	if err := sink.Park(w.ctx, l, newEvent(1, ""), sink.Config{}, "", 1); !errors.Is(err, deadletter.ErrNoStream) {
		t.Errorf("park: %v", err)
	}
	there := w.open()
	for _, n := range []uint64{0, 1, 99} {
		if _, err := there.Get(w.ctx, n); !errors.Is(err, deadletter.ErrNotParked) {
			t.Errorf("get %d: %v", n, err)
		}
	}
	if err := sink.Park(w.ctx, there, &sink.Event{Message: &nats.Msg{}}, sink.Config{}, "", 1); err == nil {
		t.Error("an event of no store was parked")
	}
}

func TestWhatWasPutThereByHandIsSeenAndCanBeDropped(t *testing.T) {
	w := start(t, nil)
	l := w.open()
	for _, subject := range []string{"exesdb.parked.s.n", "exesdb.parked.=2e.=", "exesdb.parked.s.n.more", "exesdb.parked.s"} {
		if _, err := w.js.Publish(w.ctx, subject, []byte("?")); err != nil {
			t.Fatal(err)
		}
	}
	for n := range uint64(4) {
		p, err := l.Get(w.ctx, n+1)
		if err != nil || p.Store == "" || string(p.Data) != "?" || p.At.IsZero() {
			t.Errorf("%+v, %v", p, err)
		}
		if _, err := sink.New(w.js, sink.ParkedConfig(&p)); !errors.Is(err, sink.ErrConfig) {
			t.Errorf("it was to go somewhere: %v", err)
		}
		if err := l.Drop(w.ctx, n+1); err != nil {
			t.Error(err)
		}
	}
}

func TestStreamThatCannotHoldParkedEventsIsAnError(t *testing.T) {
	for mend, cfg := range map[string]jetstream.StreamConfig{
		"--subjects='exesdb.parked.>'": {Name: deadletter.Stream, Subjects: []string{"exesdb.events.PARKED.>"}, AllowDirect: true},
		"--allow-direct":               {Name: deadletter.Stream, Subjects: []string{"exesdb.parked.>"}},
	} {
		w := start(t, nil)
		w.stream(cfg)
		_, opened := deadletter.Open(w.ctx, w.js, deadletter.Config{})
		_, read := deadletter.OpenExisting(w.ctx, w.js)
		for _, err := range []error{opened, read} {
			if !errors.Is(err, deadletter.ErrWrongStream) || !strings.Contains(err.Error(), "nats stream edit EXESDB_PARKED "+mend) {
				t.Errorf("got %v", err)
			}
		}
	}
}

func TestReasonIsOneLineOfText(t *testing.T) {
	if got := deadletter.OneLine("a\n b\t\x1b[31mc\x00"); got != "a b [31mc" {
		t.Errorf("got %q", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOfN(rapid.Byte(), 0, 1200).Draw(t, "bytes"))
		if rapid.Bool().Draw(t, "text") {
			s = rapid.StringN(0, 600, -1).Draw(t, "runes")
		}
		got := deadletter.OneLine(s)
		if len(got) > 512 || !utf8.ValidString(got) || strings.ContainsAny(got, "\r\n\t\x00\x1b") || strings.TrimSpace(got) != got {
			t.Fatalf("%q became %q", s, got)
		}
	})
}

// TestEventIsParkedOnceHoweverLongAgo: the next instance parks again what the one before parked and did not
// acknowledge, after JetStream has forgotten its message id.
func TestEventIsParkedOnceHoweverLongAgo(t *testing.T) {
	w := start(t, nil)
	if _, err := w.js.CreateStream(w.ctx, jetstream.StreamConfig{
		Name: deadletter.Stream, Subjects: []string{deadletter.Prefix + ">"}, AllowDirect: true, Storage: jetstream.MemoryStorage, Duplicates: 100 * time.Millisecond,
	}); err != nil {
		t.Fatal(err)
	}
	c := sink.Config{Kind: sink.Publish, Subject: "in"}
	event := func(sequence, incarnation uint64, key, epoch string) *sink.Event {
		e := newEvent(sequence, "")
		e.Key, e.Epoch, e.Incarnation = key, epoch, incarnation
		return e
	}
	before := w.open()
	for sequence := uint64(1); sequence <= 600; sequence += 2 { // more than a page, and the odd ones only
		w.park(before, event(sequence, 1, "k", "e"), c)
	}
	time.Sleep(200 * time.Millisecond) // JetStream forgets
	next := w.open()
	for _, sequence := range []uint64{1, 2, 299, 599, 600, 601} {
		w.park(next, event(sequence, 2, "k", "e"), c)
	}
	if n := len(w.list(next, "", "")); n != 303 {
		t.Errorf("%d are there, not the 300 of before and 2, 600 and 601", n)
	}
	w.park(next, event(1, 2, "k", "another history"), c)
	w.park(next, event(1, 2, "another selector", "e"), c)
	if n := len(w.list(next, "", "")); n != 305 {
		t.Errorf("%d are there: those of another history and of another key are other events", n)
	}
	raw, err := w.parkedStream().GetMsg(w.ctx, 1)
	if err != nil || raw.Header.Get("Nats-Msg-Id") != "k/e/1" {
		t.Errorf("stored with %v, %v", raw.Header, err)
	}
}

func TestFullStreamSaysWhatToDo(t *testing.T) {
	w := start(t, nil)
	if _, err := w.js.CreateStream(w.ctx, jetstream.StreamConfig{
		Name: deadletter.Stream, Subjects: []string{deadletter.Prefix + ">"}, AllowDirect: true, Storage: jetstream.MemoryStorage, MaxMsgs: 1, Discard: jetstream.DiscardNew,
	}); err != nil {
		t.Fatal(err)
	}
	l, c := w.open(), sink.Config{Kind: sink.Publish, Subject: "in"}
	w.park(l, newEvent(1, ""), c)
	for range 2 {
		err := sink.Park(w.ctx, l, newEvent(2, ""), c, "no", 1)
		if !errors.Is(err, deadletter.ErrFull) || !strings.Contains(err.Error(), "EXESDB_PARKED is full (maximum messages exceeded); make room with: subproxy parked") {
			t.Errorf("full: %v", err)
		}
	}
	if err := l.Drop(w.ctx, 1); err != nil {
		t.Fatal(err)
	}
	w.park(l, newEvent(2, ""), c)
}

// An event without data and with a header Status looks like an answer of the server; it is one like any
// other.
func TestParkedEventWithAHeaderStatusIsListedShownReplayedAndDropped(t *testing.T) {
	w := start(t, nil)
	l, c := w.open(), sink.Config{Kind: sink.Publish, Subject: "in"}
	statuses := []string{"500", "503", "204", "404", "408", "100", "open"}
	parked := func() (all []string) {
		for _, p := range w.list(l, "", "") {
			all = append(all, p.Header.Get("Status"))
		}
		return all
	}
	incarnation := uint64(3)
	for round, act := range map[string]func(deadletter.Parked) error{
		"replayed": func(p deadletter.Parked) error { return sink.Replay(w.ctx, l, p, w.sink(c.Kind, c.Subject)) },
		"dropped":  func(p deadletter.Parked) error { return l.Drop(w.ctx, p.Sequence) },
	} {
		incarnation++        // or what was dropped in the other round is remembered
		want := []string{""} // before, and after
		w.park(l, newEvent(1, "before"), c)
		for i, status := range statuses {
			e := newEvent(uint64(2+i), "")
			e.Message.Header["Status"], e.Incarnation = []string{status}, incarnation
			for range 2 { // the second is a duplicate, and looked for
				w.park(l, e, c)
			}
			want = append(want, status)
		}
		w.park(l, newEvent(100, "after"), c)
		if want = append(want, ""); !slices.Equal(parked(), want) {
			t.Fatalf("%s: listed %q", round, parked())
		}
		for _, p := range w.list(l, "", "") {
			shown, err := l.Get(w.ctx, p.Sequence)
			if err != nil || shown.Header.Get("Status") != p.Header.Get("Status") || shown.StoreSequence != p.StoreSequence {
				t.Errorf("%s: shown %+v, %v", round, shown, err)
			}
			if err := act(p); err != nil {
				t.Errorf("%s: %q: %v", round, p.Header.Get("Status"), err)
			}
		}
		if left := parked(); len(left) > 0 {
			t.Errorf("not %s: %q", round, left)
		}
	}
}

// nats-server 2.15 has every mirror answer direct gets for its origin, also one that has only a part of it.
func TestMirrorOfTheStreamIsNotTakenForIt(t *testing.T) {
	w := start(t, nil)
	l, c := w.open(), sink.Config{Kind: sink.Publish, Subject: "in"}
	for i := range 13 {
		e := newEvent(uint64(i+1), "")
		e.Store = []string{"s", "other"}[i%2]
		w.park(l, e, c)
	}
	m := w.stream(jetstream.StreamConfig{Name: "HALF", Mirror: &jetstream.StreamSource{Name: deadletter.Stream, FilterSubject: "exesdb.parked.s.*"}})
	if !m.CachedInfo().Config.MirrorDirect {
		t.Skip("a server that does not have mirrors answer for their origin by itself")
	}
	for joined := false; !joined; {
		answer, err := w.nc.RequestWithContext(w.ctx, "$JS.API.DIRECT.GET."+deadletter.Stream, []byte(`{"seq":1}`))
		if err != nil {
			t.Fatal(err)
		}
		joined = answer.Header.Get("Nats-Stream") == "HALF"
	}
	for range 20 {
		if all, s, other := w.list(l, "", ""), w.list(l, "s", ""), w.list(l, "other", ""); len(all) != 13 || len(s) != 7 || len(other) != 6 {
			t.Fatalf("listed %d, %d and %d", len(all), len(s), len(other))
		}
		if p, err := l.Get(w.ctx, 2); err != nil || p.StoreSequence != 2 {
			t.Fatalf("%+v, %v", p, err)
		}
	}
	for i := range uint64(13) {
		if err := l.Drop(w.ctx, i+1); err != nil {
			t.Error(err)
		}
	}
}
