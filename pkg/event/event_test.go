package event

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/subscription"
)

var stored = time.Date(2026, 11, 23, 7, 0, 0, 123, time.UTC)

var _ subscription.Matchable = (*Event)(nil)

func TestMissingAttributesAreDerived(t *testing.T) {
	e, err := FromMessage("greenhouse_tycoon", Subject("greenhouse_tycoon", "greenhouse.1", "initialized:v1"), 42, stored, nil, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, name := range []string{"id", "type", "subject", "source", "time"} {
		got[name], _ = e.Attribute(name)
	}
	want := map[string]string{
		"id": "greenhouse_tycoon/42", "type": "initialized:v1", "subject": "greenhouse.1", "source": "exesdb/greenhouse_tycoon", "time": "2026-11-23T07:00:00.000000123Z",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestHeadersWinAndPassThrough(t *testing.T) {
	h := nats.Header{"ce-id": {"a"}, "ce-type": {"t"}, "ce-subject": {"s"}, "ce-tenant": {"7"}, "traceparent": {"00-1-2-01"}, "ce-time": {"2026-01-02T03:04:05Z"}}
	e, err := FromMessage("store", "legacy.subject", 1, stored, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := e.Message("to.here")
	for k, v := range h {
		if diff := cmp.Diff(v, m.Header[k]); diff != "" {
			t.Errorf("%s: %s", k, diff)
		}
	}
	if tenant, ok := e.Attribute("tenant"); !ok || tenant != "7" {
		t.Errorf("tenant %q, %v", tenant, ok)
	}
	if _, added := h[SourceHeader]; added {
		t.Error("the event's own headers were changed")
	}
	if m.Header.Get(SourceHeader) != "exesdb/store" {
		t.Errorf("source %v", m.Header[SourceHeader])
	}
}

func TestMessageThatIsNoEventIsRefused(t *testing.T) {
	for _, subject := range []string{"", "a.b.c", "exesdb.events.s", "exesdb.events.s.a", "exesdb.events.s.=2e.t", "exesdb.events.s..t", "exesdb.events.s.a.b.=2e", "exesdb.events.s.a.b..c", "exesdb.events.s.a."} {
		if _, err := FromMessage("s", subject, 1, stored, nil, nil); !errors.Is(err, ErrNotAnEvent) {
			t.Errorf("%q: %v", subject, err)
		}
	}
}

func TestEventsComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringN(1, 20, 40)
		stream, eventType := name.Draw(t, "stream"), name.Draw(t, "type")
		e, err := FromMessage("s", Subject("s", stream, eventType), 7, stored, nil, []byte("x"))
		if err != nil || e.Stream != stream || e.Type != eventType {
			t.Fatalf("%q %q became %q %q, %v", stream, eventType, e.Stream, e.Type, err)
		}
		m := e.Message("out")
		back, err := FromMessage("s", m.Subject, 7, stored, m.Header, m.Data)
		if err != nil || back.ID != e.ID || back.Type != e.Type || back.Stream != e.Stream || back.Source != e.Source || !back.Time.Equal(e.Time) {
			t.Fatalf("%+v became %+v, %v", e, back, err)
		}
	})
}

func FuzzFromMessage(f *testing.F) {
	f.Add("exesdb.events.s.a.b", "", "")
	f.Add("x", "t", "s")
	f.Add("exesdb.events.s.=FF.b", "", "2026")
	f.Fuzz(func(t *testing.T, subject, eventType, stream string) {
		e, err := FromMessage("s", subject, 1, stored, nats.Header{TypeHeader: {eventType}, SubjectHeader: {stream}}, []byte(subject))
		if err == nil && (e.Type == "" || e.Stream == "" || e.ID == "") {
			t.Fatalf("an event without a name: %+v", e)
		}
	})
}
