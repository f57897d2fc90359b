package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/exesdb/subproxy/pkg/subscription"
)

func TestLoadReadsTheFileAndNamesIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "subproxy.yaml")
	if _, err := Load(path, nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("Load of no file = %v", err)
	}
	if err := os.WriteFile(path, []byte("log: {level: loud}"+oneStore), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(path, nil)
	var ps Problems
	if !errors.As(err, &ps) || len(ps) != 1 {
		t.Fatalf("Load = %v", err)
	}
	want := Problem{File: path, Line: 1, Column: 14, Path: "log.level", Message: `"loud" is none of debug, info, warn, error`}
	if ps[0] != want {
		t.Errorf("got %+v\nwant %+v", ps[0], want)
	}
}

func TestSubscriptionsAreFilledFromTheirStoresDefaults(t *testing.T) {
	c := mustParse(t, `
stores:
  - id: s
    subscriptions:
      - name: all
      - {name: own, type: by_event_type, selector: y, start_version: 0}
      - {name: part, forward: {sink: request, max_deliver: 9}}
    defaults: {type: by_stream, selector: x, start_version: 7, forward: {subject: t, timeout: 1s}}
  - id: bare
    subscriptions: [{name: a, selector: x}, {name: f, selector: x, forward: {subject: t}}]
`, nil)
	inherited := &Forward{Sink: "publish", Subject: "t", Timeout: time.Second, MaxDeliver: 5, OnGap: "continue"}
	want := [][]Subscription{{
		{Name: "all", Type: "by_stream", Selector: "x", StartVersion: 7, Forward: inherited},
		{Name: "own", Type: "by_event_type", Selector: "y", StartVersion: 0, Forward: inherited},
		{Name: "part", Type: "by_stream", Selector: "x", StartVersion: 7, Forward: &Forward{Sink: "request", Subject: "t", Timeout: time.Second, MaxDeliver: 9, OnGap: "continue"}},
	}, {
		{Name: "a", Type: "by_event_type", Selector: "x"},
		{Name: "f", Type: "by_event_type", Selector: "x", Forward: &Forward{Sink: "publish", Subject: "t", Timeout: 5 * time.Second, MaxDeliver: 5, OnGap: "continue"}},
	}}
	if diff := cmp.Diff(want, [][]Subscription{c.Stores[0].Subscriptions, c.Stores[1].Subscriptions}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnchorsAliasesAndMergeKeysAreRefusedWhereTheyStand(t *testing.T) {
	got := problems(t, `
log: {&x level: info, *x : y}
stores:
  - id: &id s
    subscriptions: &subs
      - &a {name: a, selector: x}
      - {<<: *a, name: b}
  - id: u
    subscriptions:
      - &a {name: a, selector: x}
      - {<<: *a, selector: y, name: b}
      - *nope
  - id: t
    subscriptions: *subs
bridge: {streams: [{stream: E, store: *id}]}
nats: &n
status: *n
`, nil)
	var want []string
	for _, at := range []string{
		"2:7: log", "2:23: log", "4:9: stores[0].id", "5:20: stores[0].subscriptions",
		"10:9: stores[1].subscriptions[0]", "11:10: stores[1].subscriptions[1]", "12:9: stores[1].subscriptions[2]",
		"14:20: stores[2].subscriptions", "15:39: bridge.streams[0].store", "16:7: nats", "17:9: status",
	} {
		want = append(want, "f.yaml:"+at+": "+noReferences)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatIsEmptyIsLeftOut(t *testing.T) {
	got := mustParse(t, "\xef\xbb\xbf%YAML 1.2\n---\nnats:\nlog: ~\nbridge: {streams: []}\nstores: [{id: s, defaults:, subscriptions: [{name: a, selector: x, forward:}]}]\n", nil)
	want := Default()
	want.Stores = []Store{{ID: "s", Stream: StoreStream{Replicas: 1, Storage: "file", Compression: "none"}, Defaults: Defaults{Type: "by_event_type"}, Subscriptions: []Subscription{{Name: "a", Type: "by_event_type", Selector: "x"}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestContextTakesThePlaceOfTheDefaultURL(t *testing.T) {
	if got := mustParse(t, "nats: {context: c}"+oneStore, nil).NATS; got != (NATS{Context: "c", ConnectTimeout: 30 * time.Second}) {
		t.Errorf("got %+v", got)
	}
	if got := mustParse(t, "nats: {context: '', url: ' tls://a:1, b ,wss://[::1]:443'}"+oneStore, nil).NATS; got.URL != " tls://a:1, b ,wss://[::1]:443" {
		t.Errorf("got %+v", got)
	}
}

func TestTypesAreThoseOfPackageSubscription(t *testing.T) {
	var want []string
	for _, kind := range subscription.Types() {
		want = append(want, string(kind))
	}
	stores := find(t, schema, "stores")
	for _, holder := range []string{"defaults", "subscriptions"} {
		if diff := cmp.Diff(want, find(t, find(t, stores.fields, holder).fields, "type").oneOf); diff != "" {
			t.Errorf("%s (-want +got):\n%s", holder, diff)
		}
	}
}

func TestDefaultsHaveTheRulesOfSubscriptions(t *testing.T) {
	stores := find(t, schema, "stores")
	subscriptions := find(t, stores.fields, "subscriptions")
	for _, d := range find(t, stores.fields, "defaults").fields {
		s := find(t, subscriptions.fields, d.name)
		if d.kind != s.kind || d.min != s.min || d.max != s.max || d.format != s.format || !cmp.Equal(d.oneOf, s.oneOf) {
			t.Errorf("%s: defaults have other rules than subscriptions", d.name)
		}
	}
}

func find(t *testing.T, fields []field, name string) field {
	t.Helper()
	for _, f := range fields {
		if f.name == name {
			return f
		}
	}
	t.Fatalf("no field %s", name)
	return field{}
}

func TestStoreWithoutSubscriptionsIsForAnEmitter(t *testing.T) {
	c, err := Parse("f.yaml", []byte("stores:\n  - id: s\n    stream: {name: EVENTS, stream_token: 2, event_type_header: kind}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := StoreStream{Name: "EVENTS", Replicas: 1, Storage: "file", Compression: "none", StreamToken: 2, EventTypeHeader: "kind"}
	if got := c.Stores[0].Stream; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
