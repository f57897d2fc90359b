package subscription

import (
	"testing"

	"pgregory.net/rapid"
)

func TestSelectorsThatMeanTheSameAreWrittenTheSame(t *testing.T) {
	for _, c := range []struct {
		typ  Type
		want string
		same []string
	}{
		{ByEventPayload, `{"area":12,"kind":"x"}`, []string{`{"kind":"x","area":12}`, ` { "area" : 12.0 , "kind" : "x" } `, `{"area":1.2e1,"kind":"\u0078"}`, `{"area":1,"area":12,"kind":"x"}`}},
		{ByEventPayload, `{"a":-0.5,"b":[1,{"c":null,"d":true}]}`, []string{`{"b":[1.0,{"d":true,"c":null}],"a":-5e-1}`}},
		{ByEventPayload, `{"a":0}`, []string{`{"a":-0}`, `{"a":0e5}`, `{"a":0.00}`}},
		{ByEventPayload, `{"a":1e400,"b":1e-400}`, []string{`{"a":10e399,"b":0.1e-399}`}},
		{ByEventPayload, `{"a":"é<\"\n/\u0001"}`, []string{`{"a":"\u00e9\u003c\u0022\u000a\/\u0001"}`}},
		{ByEventPayload, `{"a":9007199254740993}`, []string{`{"a":9007199254740993.0}`}},
		{ByEventPattern, `{"a":12.0,"b":"x"}`, []string{`{"b":"x", "a":12.0}`}}, // attributes are text: 12 is another
	} {
		want := Subscription{Store: "s", Type: c.typ, Selector: c.want, Name: "n"}
		if got := want.Canonical(); got != want {
			t.Errorf("%s is written %s", c.want, got.Selector)
		}
		for _, selector := range c.same {
			s := want
			s.Selector = selector
			if got := s.Canonical(); got != want || !s.SameAs(want) || !want.SameAs(s) {
				t.Errorf("%s is written %s, not %s", selector, got.Selector, c.want)
			}
		}
	}
	for _, selector := range []string{`{ "a": 1 }`, "$all", "{"} {
		s := Subscription{Store: "s", Type: ByStream, Selector: selector, Name: "n"}
		if s.Canonical() != s {
			t.Errorf("%s of %s is written %s", selector, s.Type, s.Canonical().Selector)
		}
	}
	a := Subscription{Store: "s", Type: ByEventPayload, Selector: `{"a":1}`, Name: "n"}
	for _, b := range []Subscription{{"s", ByEventPayload, `{"a":2}`, "n", 0, ""}, {"s", ByEventPattern, `{"a":1}`, "n", 0, ""}, {"s", ByEventPayload, `{"a":1}`, "m", 0, ""}, {"t", ByEventPayload, `{"a":1}`, "n", 0, ""}} {
		if a.SameAs(b) {
			t.Errorf("%+v is %+v", a, b)
		}
	}
}

func TestCanonicalSelectorsStayAsTheyAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.String().Draw(t, "name")
		text := pattern{kind: isObject, members: []member{{name, pattern{scalar: rapid.String().Draw(t, "text")}}}}
		s := Subscription{Type: ByEventPayload, Selector: string(text.append(nil, ByEventPayload))}
		if _, ok := DecodeJSON([]byte(s.Selector)); !ok {
			t.Skip("\\u0000")
		}
		if s.Canonical() != s {
			t.Fatalf("%s is written %s", s.Selector, s.Canonical().Selector)
		}
	})
}
