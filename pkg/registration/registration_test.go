package registration

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/subscription"
)

func example() Registration {
	return Registration{
		Subscription: subscription.Subscription{
			Store: "greenhouse_tycoon", Type: subscription.ByEventType, Selector: "greenhouse_initialized:v1", Name: "greenhouse_initialized_to_pubsub_v1",
		},
		Owner: Owner{Name: "host-a", ID: "WqEm0C2sVpLQ1g3XKd0Zkb", Host: "host-a", PID: 4711}, Incarnation: 3,
		DeliverSubject: "exesdb.proxy.deliver.WqEm0C2sVpLQ1g3XKd0Zkb.17", Term: 42, Cause: LeaderChanged,
		RegisteredAt: time.Date(2026, 11, 23, 7, 0, 0, 123456789, time.UTC),
	}
}

func TestRecordIsTheContracts(t *testing.T) {
	r := example()
	const want = `{"store":"greenhouse_tycoon","type":"by_event_type","selector":"greenhouse_initialized:v1",` +
		`"name":"greenhouse_initialized_to_pubsub_v1","start_version":0,` +
		`"owner":{"name":"host-a","id":"WqEm0C2sVpLQ1g3XKd0Zkb","host":"host-a","pid":4711},"incarnation":3,` +
		`"deliver_subject":"exesdb.proxy.deliver.WqEm0C2sVpLQ1g3XKd0Zkb.17","term":42,"cause":"leader_changed",` +
		`"registered_at":"2026-11-23T07:00:00.123456789Z"}`
	got, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if key := r.Key(); key != "greenhouse_tycoon.by_event_type.greenhouse_initialized=3Av1.greenhouse_initialized_to_pubsub_v1" {
		t.Errorf("under %s", key)
	}
}

func TestEncodedRecordIsDecodedAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z$:. ]{1,12}`)
		r := Registration{
			Subscription: subscription.Subscription{
				Store: name.Draw(t, "store"), Type: rapid.SampledFrom(subscription.Types()).Draw(t, "type"), Selector: name.Draw(t, "selector"),
				Name: name.Draw(t, "name"), StartVersion: rapid.Int64Min(-1).Draw(t, "start"),
			},
			Owner:       Owner{Name: rapid.String().Draw(t, "owner"), ID: rapid.StringMatching(`[A-Za-z0-9]{22}`).Draw(t, "id"), Host: "h", PID: rapid.Int().Draw(t, "pid")},
			Incarnation: rapid.Uint64().Draw(t, "incarnation"), DeliverSubject: "d", Term: rapid.Uint64Max(event.MaxTerm).Draw(t, "term"),
			Cause: rapid.SampledFrom(Causes()).Draw(t, "cause"), RegisteredAt: time.Unix(0, rapid.Int64Min(0).Draw(t, "at")).UTC(),
		}
		r.Owner.Name = strings.ToValidUTF8(r.Owner.Name, "?")
		data, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(r.Key(), data)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("got %+v, %v\nwant %+v", got, err, r)
		}
		if e := (kv.Entry{Data: data}); !e.Contains(r.Owner.Matcher()) {
			t.Fatalf("%s is not found to be its owner's", data)
		}
	})
}

func TestMalformedRecordsAreRefused(t *testing.T) {
	r := example()
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	good, key := string(data), r.Key()
	for name, c := range map[string]struct{ key, data, says string }{
		"empty":                    {key, "", "unexpected EOF"},
		"no JSON":                  {key, "x", "invalid"},
		"null":                     {key, "null", "owner.id"},
		"a list":                   {key, "[]", "array"},
		"no owner":                 {key, strings.Replace(good, `"owner"`, `"holder"`, 1), "owner.id"},
		"empty owner id":           {key, strings.Replace(good, r.Owner.ID, "", 1), "owner.id"},
		"another subscription's":   {key, strings.Replace(good, `"name":"greenhouse`, `"name":"other`, 1), "it describes"},
		"under another's key":      {"a.by_stream.b.c", good, "it describes"},
		"negative incarnation":     {key, strings.Replace(good, `"incarnation":3`, `"incarnation":-3`, 1), "incarnation"},
		"time that is not RFC3339": {key, strings.Replace(good, "2026-11-23T", "23.11.", 1), "parsing time"},
	} {
		got, err := Decode(c.key, []byte(c.data))
		if !errors.Is(err, ErrBadRecord) || !strings.Contains(err.Error(), c.key) || !strings.Contains(err.Error(), c.says) || got != (Registration{}) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	if _, err := Decode(key, []byte(strings.Replace(good, "{", `{"future":[1],`, 1))); err != nil {
		t.Errorf("an unknown field is refused: %v", err)
	}
}

func TestOwnersRecordIsKnownWithoutDecodingIt(t *testing.T) {
	r := example()
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		e     kv.Entry
		owner Owner
		want  bool
	}{
		"its own":           {kv.Entry{Data: data}, r.Owner, true},
		"an older run's":    {kv.Entry{Data: data}, Owner{Name: r.Owner.Name, ID: "another"}, false},
		"the name as an id": {kv.Entry{Data: data}, Owner{ID: "host-a"}, false},
		"a part of the id":  {kv.Entry{Data: data}, Owner{ID: r.Owner.ID[:20]}, false},
		"a marker":          {kv.Entry{Operation: kv.Deleted, Data: data}, r.Owner, false},
		"nothing":           {kv.Entry{}, r.Owner, false},
	} {
		if got := c.e.Contains(c.owner.Matcher()); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	r := example()
	data, err := r.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(r.Key(), data)
	f.Add("", []byte(nil))
	f.Add("a.by_stream.b.c", []byte(`{"store":"a","type":"by_stream","selector":"b","name":"c","owner":{"id":"x"}}`))
	f.Add("a.b.c.d", []byte("null"))
	f.Fuzz(func(t *testing.T, key string, data []byte) {
		r, err := Decode(key, data)
		switch {
		case err != nil && !errors.Is(err, ErrBadRecord):
			t.Errorf("%v", err)
		case err == nil && (r.Key() != key || r.Owner.ID == ""):
			t.Errorf("taken for the record of %q: %+v", key, r)
		}
	})
}

// What a record that another instance wrote costs to read, beside encoding/json; run with -bench Decode
// -run ^$.
func BenchmarkDecode(b *testing.B) {
	r := example()
	data, err := r.Encode()
	if err != nil {
		b.Fatal(err)
	}
	key := r.Key()
	b.Run("Decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Decode(key, data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var r Registration
			if err := json.Unmarshal(data, &r); err != nil || r.Key() != key {
				b.Fatal(err)
			}
		}
	})
}

func TestEveryCauseIsAnEventOrNot(t *testing.T) {
	events := map[Cause]bool{
		Initial: false, LeaderChanged: true, EmitterRestarted: true, Reconnected: true,
		Lost: false, Takeover: false, Timer: false, Retry: false, Manual: false,
	}
	for _, c := range Causes() {
		if want, ok := events[c]; !ok || c.IsEvent() != want {
			t.Errorf("IsEvent of %s is %t; this table says %t, and has it: %t", c, c.IsEvent(), want, ok)
		}
	}
}
