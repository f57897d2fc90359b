package config

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/subscription"
)

func TestDefaultsLieWithinTheirOwnBounds(t *testing.T) {
	eachScalar(reflect.TypeFor[Config](), "", func(path string, f reflect.StructField) {
		text, ok := f.Tag.Lookup("default")
		if !ok {
			if f.Type.Kind() != reflect.String {
				t.Errorf("%s has no default", path)
			}
			return
		}
		v := reflect.New(f.Type).Elem()
		if err := errors.Join(set(v, text), check(v, f.Tag)); err != nil {
			t.Errorf("%s: default %s: %v", path, text, err)
		}
	})
}

func TestEveryKeyIsDescribedAndItsChecksExist(t *testing.T) {
	eachScalar(reflect.TypeFor[Config](), "", func(path string, f reflect.StructField) {
		if f.Tag.Get("doc") == "" || f.Tag.Get("yaml") == "" {
			t.Errorf("%s has no description or key", path)
		}
		for name := range strings.SplitSeq(f.Tag.Get("check"), ",") {
			if name != "" && checks[name] == nil {
				t.Errorf("%s: no check %q", path, name)
			}
		}
	})
}

func TestPrintedDefaultsAreAValidConfigurationOfTheDefaults(t *testing.T) {
	var b bytes.Buffer
	if err := WriteDefaults(&b); err != nil {
		t.Fatal(err)
	}
	got, err := parseIn(b.String())
	if err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	want := Default()
	want.Stores = Greenhouse().Stores
	want.Bridge.Streams = []BridgeStream{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	eachScalar(reflect.TypeFor[Config](), "", func(path string, f reflect.StructField) {
		key := path[strings.LastIndex(path, ".")+1:]
		if !strings.Contains(b.String(), key+": ") || !strings.Contains(path, "[") && !strings.Contains(b.String(), "; "+variable(path)+"\n") {
			t.Errorf("%s, or its variable, is not printed", path)
		}
	})
}

func TestGreenhouseCanBeRegistered(t *testing.T) {
	keys := map[string]bool{}
	for _, store := range Greenhouse().Stores {
		for _, s := range store.Subscriptions {
			sub := subscription.Subscription{Store: store.ID, Type: subscription.Type(s.Type), Selector: s.Selector, Name: s.Name, StartVersion: s.StartVersion}
			if err := sub.Validate(); err != nil {
				t.Error(err)
			}
			keys[sub.Key()] = true
		}
	}
	if len(keys) != 5 {
		t.Errorf("%d different keys", len(keys))
	}
}

func TestShapesThatYAMLAllowsAreRead(t *testing.T) {
	want, err := parseIn(stores)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"document marker":         "---\n" + stores,
		"comment before it":       "# subproxy\n---\n" + stores,
		"marker at the end":       stores + "---\n",
		"comment after the end":   stores + "---\n# end\n",
		"document end":            stores + "...\n",
		"byte order mark":         "\ufeff" + stores,
		"carriage returns":        strings.ReplaceAll(stores, "\n", "\r\n"),
		"flow style":              "{stores: [{id: s, subscriptions: [{name: n, type: by_stream, selector: x}]}]}",
		"quotes":                  "\"stores\":\n  - 'id': \"s\"\n    subscriptions: [{name: 'n', type: \"by_stream\", selector: x}]\n",
		"null is left out":        stores + "log: ~\nhttp:\n",
		"block scalar":            strings.Replace(stores, "selector: x\n", "selector: |\n          x\n", 1),
		"tag":                     strings.Replace(stores, "name: n", "name: !!str n", 1),
		"several URLs, spaced":    stores + "nats: {url: 'nats://127.0.0.1:4222'}\n",
		"mapping with one scalar": stores + "log:\n  level: info\n",
	} {
		got, err := parseIn(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestURLs(t *testing.T) {
	for text, good := range map[string]bool{
		"": true, "host": true, "host:4222": true, "[::1]:4222": true, "nats://host": true, "tls://u:p@host:4222": true, "ws://h": true,
		"wss://h/path": true, "nats://a:1, nats://b:2": true, "a,b:4222": true,
		"http://h": false, "nats://": false, "nats:///": false, "://h": false, ":4222": false, "a,,b": false, "a b://c": false,
	} {
		if err := checks["url"](text); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestNumbersStayTheTextTheyWereWhereTextIsWanted(t *testing.T) {
	c, err := parseIn(strings.NewReplacer("id: s", "id: 007", "name: n", "name: 1.50", "selector: x", "selector: true").Replace(stores))
	if err != nil {
		t.Fatal(err)
	}
	if s := c.Stores[0]; s.ID != "007" || s.Subscriptions[0].Name != "1.50" || s.Subscriptions[0].Selector != "true" {
		t.Errorf("got %+v", s)
	}
}

func TestAliasStandsForTheAnchorBeforeItWhateverTheOrderOfKeys(t *testing.T) {
	c, err := parseIn(`
stores:
  - id: a
    subscriptions:
      - {name: n, type: by_stream, selector: x, forward: &f {subject: first}}
    defaults:
      forward: *f
  - id: b
    subscriptions:
      - {name: n, type: by_stream, selector: x, forward: &f {subject: second}}
      - {name: m, type: by_stream, selector: x, forward: *f}
`)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := c.Stores[0].Defaults.Forward.Subject, c.Stores[1].Subscriptions[1].Forward.Subject; a != "first" || b != "second" {
		t.Errorf("got %s and %s", a, b)
	}
}

func TestStoreDefaultsAreInheritedAndExplicitValuesKept(t *testing.T) {
	c, err := parseIn(`
stores:
  - id: a
    defaults: {type: by_event_type, selector: e, start_version: -1, forward: {sink: request, subject: d}}
    subscriptions:
      - name: inherits
      - {name: differs, type: by_stream, selector: x, start_version: 0, forward: {subject: own}}
  - id: b
    subscriptions:
      - {name: alone, type: by_stream, selector: x}
`, "SUBPROXY_STORES_0_SUBSCRIPTIONS_0_SELECTOR", "from the environment")
	if err != nil {
		t.Fatal(err)
	}
	got := append(c.Stores[0].Subscriptions, c.Stores[1].Subscriptions...)
	forward := func(sink, subject string) *Forward {
		return &Forward{Sink: sink, Subject: subject, Timeout: 5 * time.Second, MaxDeliver: 5}
	}
	want := []Subscription{
		{Name: "inherits", Type: "by_event_type", Selector: "from the environment", StartVersion: -1, Forward: forward("request", "d")},
		{Name: "differs", Type: "by_stream", Selector: "x", Forward: forward("publish", "own")},
		{Name: "alone", Type: "by_stream", Selector: "x"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got[0].Forward == c.Stores[0].Defaults.Forward {
		t.Error("an inherited forward is shared with the defaults")
	}
}

// everything has one element of every list and every optional mapping.
const everything = `
bridge:
  streams: [{stream: S, store: s}]
stores:
  - id: s
    defaults: {forward: {subject: a}}
    subscriptions: [{name: n, type: by_stream, selector: x, forward: {subject: a}}]
`

func TestEnvironmentOverridesEveryScalar(t *testing.T) {
	eachScalar(reflect.TypeFor[Config](), "", func(path string, f reflect.StructField) {
		value, bad := another(f)
		c, err := parseIn(everything, variable(path), value)
		var problems Problems
		if errors.As(err, &problems) {
			// Some are refused for another key's sake; that shows as well that they were taken.
			for _, p := range problems {
				if p.Line == 0 {
					t.Errorf("%s=%s is refused: %v", variable(path), value, p)
				}
			}
		} else if got := fmt.Sprint(reach(reflect.ValueOf(c).Elem(), path)); got != value {
			t.Errorf("%s=%s gives %s", variable(path), value, got)
		}
		if bad == "" {
			return
		}
		problems = problemsOf(t, everything, variable(path), bad)
		if p := problems[0]; p.Line != 0 || p.Path != path || !strings.HasPrefix(p.Message, "environment variable "+variable(path)+": ") {
			t.Errorf("%s=%s gives %v", variable(path), bad, problems)
		}
	})
}

// another is a good value of a key that is not its default, and a bad one; empty where any text is good.
func another(f reflect.StructField) (good, bad string) {
	if enum := f.Tag.Get("enum"); enum != "" {
		for e := range strings.SplitSeq(enum, "|") {
			if e != f.Tag.Get("default") {
				return e, "none"
			}
		}
	}
	switch {
	case f.Type == durationType:
		return "1.5s", "5"
	case f.Type.Kind() == reflect.Bool:
		return map[string]string{"true": "false", "false": "true"}[f.Tag.Get("default")], "1"
	case f.Type.Kind() != reflect.String:
		return "4", "four"
	}
	switch f.Tag.Get("check") {
	case "file":
		return "/dev/null", "/dev/null/absent"
	case "url":
		return "nats://elsewhere:4222", "http://elsewhere"
	case "addr":
		return "127.0.0.1:1", "1"
	case "subject", "required,subject":
		return "b.c", "b c"
	case "bucket":
		return "other", "a b"
	case "required":
		return "other", ""
	default:
		return "other", ""
	}
}

// reach is the value under a path, whose lists have one element.
func reach(v reflect.Value, path string) any {
	for part := range strings.SplitSeq(path, ".") {
		key, list := strings.CutSuffix(part, "[0]")
		for v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("yaml") == key {
				v = v.Field(i)
				break
			}
		}
		if list {
			v = v.Index(0)
		}
	}
	return v.Interface()
}

func TestVariablesOfListElementsNameThem(t *testing.T) {
	c, err := parseIn(stores+"      - {name: m, type: by_stream, selector: y}\n", "SUBPROXY_STORES_0_SUBSCRIPTIONS_1_SELECTOR", "$all")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Stores[0].Subscriptions[1].Selector; got != "$all" {
		t.Errorf("got %s", got)
	}
}

func TestEnvironmentMendsWhatTheFileHasOutOfRange(t *testing.T) {
	c, err := parseIn(stores+"subscription_proxy: {verification_timeout: 1ms}\n", "SUBPROXY_SUBSCRIPTION_PROXY_VERIFICATION_TIMEOUT", "1s")
	if err != nil || c.SubscriptionProxy.VerificationTimeout != time.Second {
		t.Errorf("got %v, %v", c, err)
	}
}

func FuzzParse(f *testing.F) {
	var defaults bytes.Buffer
	if err := WriteDefaults(&defaults); err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		"", "#", stores, everything, defaults.String(), "stores: &s\n  - id: s\n    subscriptions: *s\n", "nats: *x", "a: &a [*a]", "<<: {}",
		"? a\n: b", "- - -", "{", "a: b: c", "stores: [~]", "log: !!str x", "\ufeff", "%YAML 1.2\n---\n", "nats: |\n x", "a: &x *x", "nats: !!map &a !!map *a",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f", data, noEnvironment)
		if err != nil {
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 || c != nil {
				t.Fatalf("%v, %v", c, err)
			}
			for _, p := range problems {
				if (p.Line < 1 || p.Column < 1) && !strings.Contains(p.Message, "environment variable SUBPROXY_") || p.Message == "" {
					t.Errorf("a problem without a place: %+v", p)
				}
			}
			return
		}
		checkInvariants(t, c)
	})
}

func checkInvariants(t *testing.T, c *Config) {
	ids := map[string]bool{}
	n := 0
	for _, store := range c.Stores {
		if ids[store.ID] {
			t.Errorf("two stores %q", store.ID)
		}
		ids[store.ID] = true
		names := map[string]bool{}
		for _, s := range store.Subscriptions {
			n++
			if names[s.Name] {
				t.Errorf("two subscriptions %q", s.Name)
			}
			names[s.Name] = true
			sub := subscription.Subscription{Store: store.ID, Type: subscription.Type(s.Type), Selector: s.Selector, Name: s.Name, StartVersion: s.StartVersion}
			if err := sub.Validate(); err != nil {
				t.Error(err)
			}
			if s.Forward != nil && s.Forward.Subject == "" {
				t.Errorf("%s is forwarded nowhere", sub)
			}
		}
	}
	if p := c.SubscriptionProxy; n == 0 || c.Instance.Name == "" || p.FailureNotificationThreshold > p.MaxConsecutiveFailures {
		t.Errorf("taken for valid: %+v", c)
	}
}
