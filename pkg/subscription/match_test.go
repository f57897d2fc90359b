package subscription

import (
	"errors"
	"testing"
)

// sample is an event as selectors see one.
type sample struct {
	stream, eventType, data string
	attributes              map[string]string
}

func (s sample) StreamID() string                  { return s.stream }
func (s sample) EventType() string                 { return s.eventType }
func (s sample) Attribute(n string) (string, bool) { v, ok := s.attributes[n]; return v, ok }
func (s sample) JSON() (any, bool)                 { return DecodeJSON([]byte(s.data)) }

func TestSelectorsPickWhatTheirTypeSays(t *testing.T) {
	e := sample{
		stream: "greenhouse-1", eventType: "temperature_measured:v1",
		data:       `{"celsius":41.50,"id":9007199254740993,"tags":["hot","roof",{"row":3}],"site":{"name":"north","open":true},"note":null}`,
		attributes: map[string]string{"type": "temperature_measured:v1", "tenant": "7", "dry": "true"},
	}
	for _, c := range []struct {
		typ      Type
		selector string
		want     bool
	}{
		{ByStream, "$all", true}, {ByStream, "greenhouse-1", true}, {ByStream, "greenhouse-2", false},
		{ByEventType, "temperature_measured:v1", true}, {ByEventType, "temperature_measured:v2", false},
		{ByEventPattern, `{}`, true}, {ByEventPattern, `{"tenant":"7"}`, true}, {ByEventPattern, `{"tenant":7,"dry":true}`, true},
		{ByEventPattern, `{"tenant":"8"}`, false}, {ByEventPattern, `{"absent":""}`, false},
		{ByEventPayload, `{}`, true}, {ByEventPayload, `{"celsius":41.5}`, true}, {ByEventPayload, `{"celsius":4.15e1}`, true},
		{ByEventPayload, `{"id":9007199254740993}`, true}, {ByEventPayload, `{"id":9007199254740992}`, false},
		{ByEventPayload, `{"site":{"open":true}}`, true}, {ByEventPayload, `{"site":{"open":false}}`, false}, {ByEventPayload, `{"site":"north"}`, false},
		{ByEventPayload, `{"tags":["roof"]}`, true}, {ByEventPayload, `{"tags":["roof","hot"]}`, true}, {ByEventPayload, `{"tags":[{"row":3}]}`, true},
		{ByEventPayload, `{"tags":["cold"]}`, false}, {ByEventPayload, `{"note":null}`, true}, {ByEventPayload, `{"absent":null}`, false},
	} {
		m, err := Subscription{Store: "s", Type: c.typ, Selector: c.selector, Name: "n"}.Compile()
		if err != nil {
			t.Fatalf("%s %s: %v", c.typ, c.selector, err)
		}
		if got := m.Match(e); got != c.want {
			t.Errorf("%s %s: %v, want %v", c.typ, c.selector, got, c.want)
		}
	}
}

func TestDataThatIsNotJSONMatchesNoPayload(t *testing.T) {
	m, err := Subscription{Store: "s", Type: ByEventPayload, Selector: "{}", Name: "n"}.Compile()
	if err != nil {
		t.Fatal(err)
	}
	for data, want := range map[string]bool{"{}": true, "": false, "hello": false, "{} {}": false, "[]": false, "3": false} {
		if got := m.Match(sample{data: data}); got != want {
			t.Errorf("%q: %v, want %v", data, got, want)
		}
	}
}

func TestSelectorThatIsNoObjectIsRefused(t *testing.T) {
	for _, selector := range []string{"[]", "null", "{", `{"a":1} x`} {
		if _, err := (Subscription{Store: "s", Type: ByEventPayload, Selector: selector, Name: "n"}).Compile(); !errors.Is(err, ErrBadSelector) {
			t.Errorf("%q: %v, want ErrBadSelector", selector, err)
		}
	}
}

// An event's data are decoded once, and looked at by each different selector.
func BenchmarkPayload(b *testing.B) {
	data := []byte(`{"area":12,"celsius":41.50,"id":9007199254740993,"tags":["hot","roof",{"row":3}],"site":{"name":"north","open":true},"note":null,"text":"the quick brown fox jumps over the lazy dog"}`)
	m, err := Subscription{Store: "s", Type: ByEventPayload, Selector: `{"celsius":41.5,"site":{"open":true},"tags":["roof"]}`, Name: "n"}.Compile()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := DecodeJSON(data); !ok {
				b.Fatal("refused")
			}
		}
	})
	b.Run("match", func(b *testing.B) {
		b.ReportAllocs()
		e := decoded{}
		e.value, _ = DecodeJSON(data)
		for b.Loop() {
			if !m.Match(e) {
				b.Fatal("no match")
			}
		}
	})
}

type decoded struct {
	sample
	value any
}

func (d decoded) JSON() (any, bool) { return d.value, true }
