package event

import (
	"errors"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"
)

// The examples of cloudevents/spec, bindings/nats-protocol-binding.md (1.0.3-wip), section 3.1.3.2, and of
// what it says besides.
func TestHeaderValuesAreAsTheBindingSays(t *testing.T) {
	for _, c := range []struct{ header, value, written string }{
		{"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"},
		{"Euro%20%e2%82%ac%20%f0%9f%98%80", "Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"}, // lower case must be accepted
		{"Euro € 😀", "Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"},                        // nobody encoded it
		{"%45uro", "Euro", "Euro"}, // encoded without need
		{"com.example.someevent", "com.example.someevent", "com.example.someevent"}, {"/mycontext/subcontext", "/mycontext/subcontext", "/mycontext/subcontext"},
		{"2018-04-05T03:56:24Z", "2018-04-05T03:56:24Z", "2018-04-05T03:56:24Z"}, {"1234-1234-1234", "1234-1234-1234", "1234-1234-1234"},
		{`"Euro"`, "Euro", "Euro"}, {`"Euro \"€\" \\ 100%25"`, `Euro "€" \ 100%`, `Euro%20%22%E2%82%AC%22%20\%20100%25`},
		{`""`, "", ""}, {`"`, `"`, "%22"}, {`5" pipe`, `5" pipe`, "5%22%20pipe"}, {`"a" and "b"`, `"a" and "b"`, "%22a%22%20and%20%22b%22"},
		{"%2541", "%41", "%2541"}, // one round
		{"100%", "100%", "100%25"}, {"100%zz", "100%zz", "100%25zz"}, {"%4", "%4", "%254"},
		{"a%0D%0Ab", "a\r\nb", "a%0D%0Ab"}, {"%7F%09", "\x7f\t", "%7F%09"}, {"caf\xe9 x", "caf\xe9 x", "caf\xe9%20x"},
	} {
		value, err := DecodeValue(c.header)
		if err != nil || value != c.value {
			t.Errorf("%s is read as %q, %v; wanted %q", c.header, value, err, c.value)
		}
		if written := EncodeValue(value); written != c.written {
			t.Errorf("%q is written %q; wanted %q", value, written, c.written)
		}
	}
	for _, header := range []string{"%C0%A0", "%ff", "a%E2%82", "%ED%A0%80"} {
		if value, err := DecodeValue(header); !errors.Is(err, ErrNotAnEvent) {
			t.Errorf("%s is read as %q, %v", header, value, err)
		}
		if _, err := FromMessage("s", Subject("s", "o", "t"), 1, stored, nats.Header{"ce-tenant": {header}}, nil); !errors.Is(err, ErrNotAnEvent) {
			t.Errorf("an event with %s: %v", header, err)
		}
	}
}

func TestValuesComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := string(rapid.OneOf(rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) }), rapid.SliceOf(rapid.Byte())).Draw(t, "value"))
		header := EncodeValue(value)
		back, err := DecodeValue(header)
		if err != nil || back != value {
			t.Fatalf("%q is written %q and read %q, %v", value, header, back, err)
		}
		if again := EncodeValue(back); again != header {
			t.Fatalf("%q is written %q, and then %q", value, header, again)
		}
	})
}

// sent is what an emitter sends of a message that is stored on that subject.
func sent(t *testing.T, subject string, header nats.Header, data string) (Event, map[string]string, string) {
	t.Helper()
	before := maps.Clone(header)
	e, err := FromMessage("s", subject, 5, stored, header, []byte(data))
	if err != nil {
		t.Fatalf("%v: %v", header, err)
	}
	if diff := cmp.Diff(before, header); diff != "" {
		t.Errorf("the message's own headers were changed: %s", diff)
	}
	h := map[string]string{}
	for k, v := range e.Message("").Header {
		if h[k] = v[0]; len(v) != 1 {
			t.Errorf("%s is there %d times", k, len(v))
		}
	}
	f, err := FromStored("s", subject, 5, stored, header, []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range f.Complete() {
		if h[k] != v[0] {
			t.Errorf("Complete says %s: %s, and Message %s", k, v[0], h[k])
		}
	}
	return e, h, string(e.Data)
}

func TestEventsHaveOneSetOfAttributes(t *testing.T) {
	const when = "2026-11-23T07:00:00.000000123Z"
	attributes := func(id, typ, subject string, more ...string) map[string]string {
		m := map[string]string{"ce-specversion": "1.0", "ce-id": id, "ce-type": typ, "ce-subject": subject, "ce-source": "exesdb/s", "ce-time": when}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	asJSON := []string{"content-type", "application/json", "ce-datacontenttype", "application/json"}
	for name, c := range map[string]struct {
		subject    string
		header     nats.Header
		data       string
		want       map[string]string
		wantedData string
		typ        string
	}{
		"nothing but the subject": {"exesdb.events.s.o=201.caf=C3=A9", nil, "{}", attributes("s/5", "caf%C3%A9", "o%201"), "{}", "café"},
		"percent-encoded": {
			"exesdb.events.s.o=201.caf=C3=A9", nats.Header{"ce-type": {"caf%C3%A9"}, "ce-subject": {"o%201"}}, "{}", attributes("s/5", "caf%C3%A9", "o%201"), "{}", "café",
		},
		"as they are": {"x", nats.Header{"ce-type": {"café"}, "ce-subject": {"o 1"}, "ce-tenant": {"a b"}}, "{}", attributes("s/5", "caf%C3%A9", "o%201", "ce-tenant", "a%20b"), "{}", "café"},
		"quoted":      {"x", nats.Header{"ce-type": {`"caf%C3%A9"`}, "ce-subject": {`"o 1"`}}, "{}", attributes("s/5", "caf%C3%A9", "o%201"), "{}", "café"},
		"in another case": {
			"exesdb.events.s.o-5.t5", nats.Header{"Ce-Type": {"upper"}, "CE-SUBJECT": {"o 1"}, "Ce-Id": {"5"}, "Traceparent": {"00"}}, "{}",
			attributes("5", "upper", "o%201", "Traceparent", "00"), "{}", "upper",
		},
		"in both cases":  {"x", nats.Header{"Ce-Type": {"upper"}, "ce-type": {"lower", "again"}, "CE-TYPE": {"UPPER"}, "ce-subject": {"o"}}, "", attributes("s/5", "lower", "o"), "", "lower"},
		"an empty one":   {"x", nats.Header{"Ce-Type": {"upper"}, "ce-type": {""}, "ce-subject": {"o"}}, "", attributes("s/5", "upper", "o"), "", "upper"},
		"content type":   {"exesdb.events.s.o.t", nats.Header{"content-type": {"application/json"}}, "1", attributes("s/5", "t", "o", asJSON...), "1", "t"},
		"and its name":   {"exesdb.events.s.o.t", nats.Header{"ce-datacontenttype": {"application/json"}}, "1", attributes("s/5", "t", "o", asJSON...), "1", "t"},
		"with a charset": {"exesdb.events.s.o.t", nats.Header{"content-type": {"text/plain; charset=utf-8"}}, "1", attributes("s/5", "t", "o", "content-type", "text/plain; charset=utf-8", "ce-datacontenttype", "text/plain;%20charset=utf-8"), "1", "t"},
		"as Go has it": {
			"exesdb.events.s.o.t", nats.Header{"Content-Type": {"application/json"}}, "1", attributes("s/5", "t", "o", "Content-Type", "application/json", "ce-datacontenttype", "application/json"), "1", "t",
		},
		"contradicting": {
			"exesdb.events.s.o.t", nats.Header{"Content-Type": {"text/plain"}, "Ce-DataContentType": {"application/json"}}, "1",
			attributes("s/5", "t", "o", "Content-Type", "application/json", "ce-datacontenttype", "application/json"), "1", "t",
		},
		"an event in an event": {
			"exesdb.events.s.o.t", nats.Header{"ce-datacontenttype": {"application/cloudevents+json"}}, `{"type":"inner"}`,
			attributes("s/5", "t", "o", "ce-datacontenttype", "application/cloudevents+json"), `{"type":"inner"}`, "t",
		},
		"structured": {
			"exesdb.events.s.o.t", nats.Header{"content-type": {"application/cloudevents+json; charset=UTF-8"}, "ce-type": {"outer"}, "traceparent": {"00"}},
			`{"specversion":"1.0","type":"com.example.someevent","source":"/mycontext","subject":null,"id":"C234-1234-1234","time":"2018-04-05T17:31:00Z","comexampleextension1":"value é","comexampleothervalue":5,"flag":true,"datacontenttype":"application/vnd.apache.thrift.binary","data_base64":"AAEC"}`,
			map[string]string{
				"ce-specversion": "1.0", "ce-type": "com.example.someevent", "ce-source": "/mycontext", "ce-subject": "o", "ce-id": "C234-1234-1234", "ce-time": "2018-04-05T17:31:00Z", "traceparent": "00",
				"ce-comexampleextension1": "value%20%C3%A9", "ce-comexampleothervalue": "5", "ce-flag": "true", "ce-datacontenttype": "application/vnd.apache.thrift.binary", "content-type": "application/vnd.apache.thrift.binary",
			}, "\x00\x01\x02", "com.example.someevent",
		},
		"structured, on no event's subject": {
			"mySubject", nats.Header{"Content-Type": {"APPLICATION/CloudEvents"}}, ` {"specversion":"1.0","id":"1","source":"/m","type":"caf\u00e9","subject":"o 1","time":"2026-11-23T07:00:00.10Z","data":{"area": 12}} `,
			map[string]string{
				"ce-specversion": "1.0", "ce-type": "caf%C3%A9", "ce-source": "/m", "ce-subject": "o%201", "ce-id": "1", "ce-time": "2026-11-23T07:00:00.10Z",
				"ce-datacontenttype": "application/json", "content-type": "application/json",
			}, `{"area": 12}`, "café",
		},
		"structured, with text": {
			"exesdb.events.s.o.t", nats.Header{"content-type": {"application/cloudevents+json"}}, `{"id":"1","type":"t","source":"exesdb/s","time":"` + when + `","datacontenttype":"text/xml","data":"<much wow=\"xml\"/>"}`,
			attributes("1", "t", "o", "ce-datacontenttype", "text/xml", "content-type", "text/xml"), `<much wow="xml"/>`, "t",
		},
		"structured, with JSON text": {
			"exesdb.events.s.o.t", nats.Header{"content-type": {"application/cloudevents+json"}}, `{"id":"1","type":"t","source":"exesdb/s","time":"` + when + `","datacontenttype":"application/vnd.x+json","data":"text"}`,
			attributes("1", "t", "o", "ce-datacontenttype", "application/vnd.x+json", "content-type", "application/vnd.x+json"), `"text"`, "t",
		},
		"structured, without data": {
			"exesdb.events.s.o.t", nats.Header{"content-type": {"application/cloudevents+json"}}, `{"id":"1","type":"t","source":"exesdb/s","time":"` + when + `"}`, attributes("1", "t", "o"), "", "t",
		},
		"a type with dots":                           {"exesdb.events.s.o.order.cre=C3=A9.v=3A1", nil, "", attributes("s/5", "order.cre%C3%A9.v:1", "o"), "", "order.creé.v:1"},
		"names of somebody who does not know tokens": {"exesdb.events.s.o:1.created:v1", nil, "", attributes("s/5", "created:v1", "o:1"), "", "created:v1"},
	} {
		t.Run(name, func(t *testing.T) {
			e, headers, data := sent(t, c.subject, c.header, c.data)
			if diff := cmp.Diff(c.want, headers); diff != "" || data != c.wantedData || e.Type != c.typ {
				t.Errorf("type %q, data %q, headers %s", e.Type, data, diff)
			}
			again, headers, data := sent(t, "", e.Message("").Header, string(e.Data))
			if diff := cmp.Diff(c.want, headers); diff != "" || data != c.wantedData || again.Type != c.typ || again.Stream != e.Stream {
				t.Errorf("sent on: type %q, data %q, headers %s", again.Type, data, diff)
			}
		})
	}
}

func TestWhatIsNoCloudEventIsRefused(t *testing.T) {
	for content, envelope := range map[string]string{
		"application/cloudevents-batch+json": `[]`, "application/cloudevents+avro": "x", "application/cloudevents+json": `[]`, "application/CloudEvents+JSON": `{`,
		"application/cloudevents+json;a=1": `{"type":{}}`, "application/cloudevents+json;a=2": `{"Type":"t"}`, "application/cloudevents+json;a=3": `{"a b":"t"}`,
		"application/cloudevents+json;a=4": `{"data":1,"data_base64":"AA=="}`, "application/cloudevents+json;a=5": `{"data_base64":"?"}`, "application/cloudevents+json;a=6": "null",
	} {
		h := nats.Header{"Content-Type": {content}, "ce-type": {"t"}}
		if e, err := FromMessage("s", Subject("s", "o", "t"), 1, stored, h, []byte(envelope)); !errors.Is(err, ErrNotAnEvent) {
			t.Errorf("%s %s: %+v, %v", content, envelope, e, err)
		}
		if len(h) != 2 {
			t.Errorf("%s: the headers are %v", content, h)
		}
	}
}

func TestPatternsSeeAttributesAsTheyAre(t *testing.T) {
	e, _, _ := sent(t, "exesdb.events.s.o.t", nats.Header{
		"ce-time": {"2026-11-23T07:00:00.10Z"}, "Content-Type": {"application/json; charset=utf-8"}, "Ce-Tenant": {"a%20b"},
	}, "{}")
	for name, want := range map[string]string{
		"time": "2026-11-23T07:00:00.10Z", "datacontenttype": "application/json; charset=utf-8", "tenant": "a b", "specversion": "1.0", "type": "t", "subject": "o",
	} {
		if got, ok := e.Attribute(name); !ok || got != want {
			t.Errorf("%s is %q, %v; wanted %q", name, got, ok, want)
		}
	}
	if got, ok := e.Attribute("absent"); ok {
		t.Errorf("absent is %q", got)
	}
}

// What is sent on is read as the same event, whatever came.
func FuzzUnpack(f *testing.F) {
	f.Add("Ce-Type", "caf%C3%A9", "application/json", "{}")
	f.Add("ce-time", `"a\"b"`, "application/cloudevents+json", `{"type":"t","subject":"s","data":"x"}`)
	f.Add("CE-dataContentType", "%C0", "Application/CloudEvents", `{"data_base64":"AA==","datacontenttype":"application/cloudevents"}`)
	f.Fuzz(func(t *testing.T, name, value, contentType, data string) {
		h := nats.Header{name: {value}, "Content-Type": {contentType}, SubjectHeader: {"%4f"}}
		e, err := FromMessage("s", Subject("s", "o", "t"), 1, stored, h, []byte(data))
		if err != nil {
			return
		}
		m := e.Message("")
		if f := formOf(m.Header); isStructured(first(m.Header, f.contentType)) {
			t.Fatalf("%v is sent on as %v", h, m.Header)
		}
		back, err := FromMessage("s", "", 1, stored, m.Header, m.Data)
		if err != nil || back.Type != e.Type || back.Stream != e.Stream || back.ID != e.ID || string(back.Data) != string(e.Data) {
			t.Fatalf("%+v became %+v, %v", e, back, err)
		}
		if diff := cmp.Diff(m.Header, back.Message("").Header); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestCompleteEventIsReadAndSentOnWithoutAllocation(t *testing.T) {
	whole := Event{Store: "s", Stream: "o", Type: "t", ID: "1", Time: stored, Source: "exesdb/s", Header: nats.Header{ContentTypeHeader: {"application/json"}}, Data: []byte("1")}
	m := whole.Message("exesdb.events.s.o.t")
	before := maps.Clone(m.Header)
	if n := testing.AllocsPerRun(100, func() {
		e, err := FromStored("s", m.Subject, 5, stored, m.Header, m.Data)
		if err != nil || e.ID != "1" || e.Stream != "o" || e.Type != "t" || e.Source != "exesdb/s" || !e.Time.Equal(stored) {
			t.Fatalf("read is %+v, %v", e, err)
		}
		e.Complete()
	}); n > 0 {
		t.Errorf("%v allocations for each", n)
	}
	if diff := cmp.Diff(before, m.Header); diff != "" {
		t.Errorf("headers that lacked nothing were changed: %s", diff)
	}
}
