package cluster

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var seen = time.Date(2026, 11, 23, 7, 0, 0, 123, time.UTC)

func TestEventsAreReadGenerously(t *testing.T) {
	every := Event{Kind: LeaderChanged, SeenAt: seen}
	malformed := every
	malformed.Malformed = true
	with := func(change func(*Event)) Event {
		e := every
		change(&e)
		return e
	}
	badTerm := with(func(e *Event) { e.BadTerm = true })
	for _, c := range []struct {
		name, body string
		want       Event
	}{
		{"the contract's example", `{"store":"greenhouse_tycoon","leader":"n2","previous_leader":"n1","term":42,"reason":"n1 stopped"}`,
			with(func(e *Event) {
				e.Store, e.Leader, e.PreviousLeader, e.Term, e.Reason = "greenhouse_tycoon", "n2", "n1", 42, "n1 stopped"
			})},
		{"an emitter's fields", `{"store":"s","emitter":"n2","topic":"$all"}`, with(func(e *Event) { e.Store, e.Emitter, e.Topic = "s", "n2", "$all" })},
		{"empty", "", every},
		{"spaces", " \r\n\t", every},
		{"no field", "{}", every},
		{"unknown fields", `{"stores":"s","x":{"y":[1]}}`, every},
		{"null store", `{"store":null}`, every},
		{"empty store", `{"store":""}`, every},
		{"store as a number", `{"store":7}`, with(func(e *Event) { e.Store = "7" })},
		{"store as a list", `{"store":["s"],"leader":"n"}`, with(func(e *Event) { e.Malformed, e.Leader = true, "n" })},
		{"store as a bool", `{"store":true}`, malformed},
		{"leader as a list", `{"store":"s","leader":["n"]}`, with(func(e *Event) { e.Store = "s" })},
		{"term in a string", `{"term":"42"}`, with(func(e *Event) { e.Term = 42 })},
		{"greatest term", `{"term":4611686018427387903}`, with(func(e *Event) { e.Term = MaxAnnouncedTerm })},
		{"term above the greatest", `{"term":4611686018427387904,"store":"s"}`, with(func(e *Event) { e.Store, e.BadTerm = "s", true })},
		{"greatest number", `{"term":18446744073709551615}`, badTerm},
		{"negative term", `{"term":-1}`, badTerm},
		{"fractional term", `{"term":1.5}`, badTerm},
		{"a word for a term", `{"term":"many"}`, badTerm},
		{"a list for a term", `{"term":[42]}`, badTerm},
		{"no term", `{"term":0}`, every},
		{"an empty term", `{"term":""}`, every},
		{"null term", `{"term":null}`, every},
		{"an id", `{"id":"x","type":"io.exesdb.cluster.v1.leader_changed"}`, with(func(e *Event) { e.ID, e.Enveloped = "x", true })},
		{"a word", "n2", malformed},
		{"a string", `"s"`, malformed},
		{"null", "null", malformed},
		{"a list", `[{"store":"s"}]`, malformed},
		{"cut off", `{"store":"s"`, malformed},
		{"something behind", `{"store":"s"}}`, malformed},
		{"bytes", "\xff\x00", malformed},
	} {
		if got := Decode(LeaderChanged, []byte(c.body), seen); got != c.want {
			t.Errorf("%s: %s\ngives %+v\nwant  %+v", c.name, c.body, got, c.want)
		}
	}
}

func TestEncodedEventIsDecodedAsItWas(t *testing.T) {
	for _, e := range []Event{
		{Kind: LeaderChanged, ID: "i", Store: "s", Leader: "b", PreviousLeader: "a", Term: MaxAnnouncedTerm, Reason: "why", SeenAt: seen},
		{Kind: EmitterRestarted, ID: "i", Store: "s", Emitter: "e", Topic: "*n-$all", SeenAt: seen},
		{Kind: LeaderChanged, SeenAt: seen},
	} {
		data, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		e.Enveloped = true
		if got := Decode(e.Kind, data, seen); got != e {
			t.Errorf("%s\ngives %+v\nwant  %+v", data, got, e)
		}
	}
}

func TestEnvelopeOfAnEvent(t *testing.T) {
	e := Event{Kind: EmitterRestarted, ID: "i", Store: "s", SeenAt: seen.In(time.FixedZone("", 3600))}
	data, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"type":"io.exesdb.cluster.v1.emitter_restarted","id":"i","timestamp":"2026-11-23T07:00:00.000000123Z","store":"s"}`; string(data) != want {
		t.Errorf("got  %s\nwant %s", data, want)
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "null", "[]", `{"store":"s","leader":"n2","previous_leader":"n1","term":42,"reason":"r"}`,
		`{"store":"s","emitter":"n2","topic":"$all"}`, `{"store":{}}`, `{"term":"9"}`, `{"term":1e99}`, `{"store":"\ud800"}`, "\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		e := Decode(LeaderChanged, body, seen)
		if e.Malformed && e.Store != "" {
			t.Errorf("malformed, and yet for store %q", e.Store)
		}
		if !json.Valid(body) && strings.TrimSpace(string(body)) != "" && !e.Malformed {
			t.Errorf("taken for JSON")
		}
		data, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again := Decode(LeaderChanged, data, seen)
		again.Malformed, again.BadTerm = e.Malformed, e.BadTerm // what could not be read is sent as none
		e.Enveloped = true
		if again != e && utf8.Valid(body) {
			t.Errorf("%+v sent is %+v", e, again)
		}
	})
}
