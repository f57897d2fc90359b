package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// stores is what a configuration needs at least. It begins in whatever line it is put.
const stores = `stores:
  - id: s
    subscriptions:
      - name: n
        type: by_stream
        selector: x
`

// parseIn parses with these environment variables: name, value, name, value.
func parseIn(text string, variables ...string) (*Config, error) {
	return Parse("f.yaml", []byte(text), func(name string) (string, bool) {
		for i := 0; i < len(variables); i += 2 {
			if variables[i] == name {
				return variables[i+1], true
			}
		}
		return "", false
	})
}

func problemsOf(t *testing.T, text string, variables ...string) Problems {
	t.Helper()
	c, err := parseIn(text, variables...)
	var problems Problems
	if !errors.As(err, &problems) || c != nil {
		t.Fatalf("parsed to %v, %v; want problems", c, err)
	}
	return problems
}

func TestEveryMistakeIsReportedWithItsPlaceAndWhatWouldBeRight(t *testing.T) {
	const second = stores + "      - name: m\n        type: by_stream\n        selector: y\n"
	absent := filepath.Join(t.TempDir(), "absent.creds")
	for _, c := range []struct {
		name, text string
		want       string // line:column: path: the problem begins with this
		right      string // and says this
	}{
		{"unknown key", stores + "natz: {}\n", "7:1: natz: unknown key", "did you mean nats?"},
		{"unknown nested key", stores + "log:\n  levle: info\n", "8:3: log.levle: unknown key", "did you mean level?"},
		{"unknown key of a list element", stores + "        start_versoin: 1\n", "7:9: stores[0].subscriptions[0].start_versoin: unknown key", "did you mean start_version?"},
		{"unknown key like no other", stores + "log:\n  qqqqqqqqqqqq: info\n", "8:3: log.qqqqqqqqqqqq: unknown key", "known are level, format"},
		{"duplicate key", stores + "log:\n  level: info\n  level: warn\n", "9:3: log.level: given twice", "keep one"},
		{"duplicate block", stores + "log: {}\nlog: {}\n", "8:1: log: given twice", "keep one"},

		{"mapping for a string", stores + "nats:\n  url: {a: b}\n", "8:8: nats.url: a mapping is not a single value", "write a string"},
		{"block mapping for a string", stores + "nats:\n  url:\n    a: b\n", "9:5: nats.url: a mapping is not a single value", "write a string"},
		{"list for a string", stores + "nats:\n  url: [a]\n", "8:8: nats.url: a list is not a single value", "write a string"},
		{"list for an enum", stores + "log:\n  level: [a]\n", "8:10: log.level: a list is not a single value", "write one of debug, info, warn, error"},
		{"list for a bool", stores + "http:\n  pprof: [a]\n", "8:10: http.pprof: a list is not a single value", "write true or false"},
		{"list for a number", stores + "metrics:\n  subscription_label_limit: [1]\n", "8:29: metrics.subscription_label_limit: a list is", "write a whole number"},
		{"list for a duration", stores + "status:\n  summary_interval: [1s]\n", "8:21: status.summary_interval: a list is", "write a duration, such as 15s"},
		{"word for a bool", stores + "http:\n  pprof: maybe\n", `8:10: http.pprof: "maybe" is neither`, "true nor false"},
		{"letter for a bool", stores + "http:\n  pprof: t\n", `8:10: http.pprof: "t" is neither`, "true nor false"},
		{"word for a number", stores + "metrics:\n  subscription_label_limit: many\n", `8:29: metrics.subscription_label_limit: "many" is not`, "a whole number"},
		{"fraction for a number", stores + "metrics:\n  subscription_label_limit: 1.5\n", `8:29: metrics.subscription_label_limit: "1.5" is not`, "a whole number"},
		{"duration without its unit", stores + "status:\n  summary_interval: 5\n", `8:21: status.summary_interval: "5" is not a duration`, "such as 15s, 250ms or 1m30s"},
		{"scalar for a mapping", stores + "log: info\n", `7:6: log: "info" is not a mapping`, "write its keys below it: level, format"},
		{"list for a mapping", stores + "log:\n  - info\n", "8:3: log: a list is not a mapping", "write its keys below it: level, format"},
		{"list for an optional mapping", stores + "        forward: []\n", "7:18: stores[0].subscriptions[0].forward: a list is not a mapping", "sink, subject, timeout, max_deliver"},
		{"mapping for a list", "stores:\n  id: s\n", "2:3: stores: a mapping is not a list", "begin each element with a dash"},
		{"scalar for a list", "stores: s\n", `1:9: stores: "s" is not a list`, "begin each element with a dash"},
		{"scalar for an element", "stores: [s]\n", `1:10: stores[0]: "s" is not a mapping`, "id, defaults, subscriptions"},
		{"list for the whole", "- a\n", "1:1: a list is not a mapping", "nats, instance,"},
		{"empty list element", stores + "      -\n", "7:9: stores[0].subscriptions[1]: empty element", "remove it, or give it keys: name, type, selector"},

		{"bad enum", stores + "log:\n  level: INFO\n", `8:10: log.level: "INFO" is not one of`, "debug, info, warn, error"},
		{"bad numeric enum", stores + "registry:\n  replicas: 2\n", `8:13: registry.replicas: "2" is not one of`, "1, 3, 5"},
		{"bad type", strings.Replace(stores, "by_stream", "by_steam", 1), `5:15: stores[0].subscriptions[0].type: "by_steam" is not one of`, "by_stream, by_event_type, by_event_pattern, by_event_payload"},
		{"bad URL", stores + "nats:\n  url: http://x\n", `8:8: nats.url: "http://x" is not a NATS URL`, "write nats://host:4222"},
		{"bad URL among good ones", stores + "nats:\n  url: nats://a, /b\n", `8:8: nats.url: " /b" is not a NATS URL`, "with commas between"},
		{"bad bucket name", stores + "registry:\n  bucket: a.b\n", `8:11: registry.bucket: "a.b" is not a bucket name`, "letters, digits, _ and -"},
		{"empty bucket name", stores + "registry:\n  bucket: ''\n", `8:11: registry.bucket: "" is not a bucket name`, "letters, digits, _ and -"},
		{"wildcard subject", stores + "subscription_proxy:\n  leader_changed_subject: a.*\n", `8:27: subscription_proxy.leader_changed_subject: "a.*" is not a subject`, "tokens with dots between"},
		{"bad address", stores + "http:\n  addr: 8080\n", `8:9: http.addr: "8080" is not host:port`, "for example 127.0.0.1:8080"},
		{"start version below -1", stores + "        start_version: -2\n", "7:24: stores[0].subscriptions[0].start_version: -2 is out of range", "at least -1"},
		{"unreadable credentials", stores + "nats:\n  credentials: " + absent + "\n", "8:16: nats.credentials: not readable", "no such file"},
		{"certificate without its key", stores + "nats:\n  tls:\n    cert: " + os.DevNull + "\n", "9:5: nats.tls: cert and key go together", "give both or none"},
		{"context beside a URL", stores + "nats:\n  url: a\n  context: c\n", "9:12: nats.context: excludes url and credentials", "keep one or the other"},
		{"threshold above the maximum", stores + "subscription_proxy:\n  failure_notification_threshold: 9\n", "8:35: subscription_proxy.failure_notification_threshold: 9 is above", "max_consecutive_failures 5"},
		{"default threshold above the maximum", stores + "subscription_proxy:\n  max_consecutive_failures: 2\n", "8:3: subscription_proxy.failure_notification_threshold: 3 is above", "max_consecutive_failures 2"},
		{"equal subjects", stores + "subscription_proxy:\n  leader_changed_subject: a\n  emitter_restarted_subject: a\n", "9:30: subscription_proxy.emitter_restarted_subject: is the same", "they must differ"},
		{"bridge to an unknown store", stores + "bridge:\n  streams:\n    - {stream: S, store: z}\n", `9:26: bridge.streams[0].store: "z" is not the id`, "of one of stores"},
		{"bridge without its stream", stores + "bridge:\n  streams:\n    - store: s\n", "9:7: bridge.streams[0]: stream is missing", ""},

		{"two stores of one id", second + "  - id: s\n", `10:9: stores[1].id: "s" is the id of the store in line 2 already`, "no two stores share one"},
		{"two subscriptions of one name", strings.Replace(second, "name: m", "name: n", 1), `7:15: stores[0].subscriptions[1].name: "n" is the name of the subscription in line 4 already`, "unique within a store"},
		{"store without id", strings.Replace(stores, "id: s", "defaults: {}", 1), "2:5: stores[0]: id is missing", ""},
		{"empty id", strings.Replace(stores, "id: s", "id: ''", 1), "2:9: stores[0].id: must not be empty", ""},
		{"subscription without name", strings.Replace(stores, "name: n", "start_version: 0", 1), "4:9: stores[0].subscriptions[0]: name is missing", ""},
		{"subscription without type", strings.Replace(stores, "        type: by_stream\n", "", 1), "4:9: stores[0].subscriptions[0]: type is missing", "by_stream, by_event_type, by_event_pattern, by_event_payload"},
		{"subscription without selector", strings.Replace(stores, "        selector: x\n", "", 1), "4:9: stores[0].subscriptions[0].selector: selector is missing or empty", "what the type picks by"},
		{"empty selector", strings.Replace(stores, "selector: x", "selector: ''", 1), "6:19: stores[0].subscriptions[0].selector: selector is missing or empty", "what the type picks by"},
		{"selector that is no JSON object", strings.Replace(stores, "by_stream", "by_event_payload", 1), `6:19: stores[0].subscriptions[0].selector: "x" is not a JSON object, which type by_event_payload needs`, `'{"status":"on"}'`},
		{"over-long key", strings.Replace(stores, "selector: x", "selector: "+strings.Repeat("x", 1024), 1), "4:9: stores[0].subscriptions[0]: registration key too long", "shorten the store id, the selector or the name"},
		{"forward without subject", stores + "        forward: {sink: request}\n", "7:18: stores[0].subscriptions[0].forward: subject is missing", ""},
		{"forward with an empty subject", stores + "        forward: {subject: ''}\n", "7:28: stores[0].subscriptions[0].forward.subject: must not be empty", ""},
		{"no subscription", "stores:\n  - id: s\n", "2:3: stores: at least one store with at least one subscription", "subproxy check --defaults prints an example"},

		{"syntax error", stores + "nats: {url: x\n", "7:7: not YAML: could not find flow mapping end token", "'}'"},
		{"unclosed quote", stores + "nats:\n  url: 'x\n", "8:8: not YAML: ", "single-quoted"},
		{"tab", "nats:\n\turl: x\n", "2:1: not YAML: ", `'	'`},
		{"second document", stores + "---\n" + stores, "8:1: a second document", "a configuration is one"},
		{"unknown alias", stores + "log: *none\n", "7:6: log: alias *none has no anchor", "before it"},
		{"alias before its anchor", "log: *l\n" + stores + "http: &l {}\n", "1:6: log: alias *l has no anchor", "before it"},
		{"self-containing alias", "stores: &s\n  - id: s\n    subscriptions: *s\n", "2:5: stores[0].subscriptions[0].id: unknown key", "known are name, type"},
		{"merge key", stores + "log:\n  <<: {level: info}\n", "8:3: log: merge keys (<<) are not read here", "repeat the keys"},
		{"empty file", "", "1:1: stores: at least one store", "subproxy check --defaults prints an example"},
		{"only comments", "# nothing\n", "1:1: stores: at least one store", "subproxy check --defaults prints an example"},
	} {
		t.Run(c.name, func(t *testing.T) {
			problems := problemsOf(t, c.text)
			if !slices.ContainsFunc(problems, func(p Problem) bool {
				return strings.HasPrefix(place(p), c.want) && strings.Contains(p.Message, c.right)
			}) {
				t.Errorf("%q\ngives %v\nwant  f.yaml:%s … %s", c.text, problems, c.want, c.right)
			}
		})
	}
}

// place is a problem without its file.
func place(p Problem) string {
	p.File = ""
	return p.String()
}

func TestEveryRangeIsHeld(t *testing.T) {
	ranged := 0
	eachScalar(reflect.TypeFor[Config](), "", func(path string, f reflect.StructField) {
		bounds := f.Tag.Get("range")
		if bounds == "" {
			return
		}
		ranged++
		least, most, _ := strings.Cut(bounds, "..")
		for _, outside := range []string{below(t, f.Type, least), above(t, f.Type, most)} {
			if outside == "" {
				continue // there is nothing beyond the type
			}
			text, at := nest(path, outside)
			want := "is out of range; " + least + " to " + most
			if most == "9223372036854775807" {
				want = "is out of range; at least " + least
			}
			problems := problemsOf(t, text)
			if !slices.ContainsFunc(problems, func(p Problem) bool {
				return p.Path == path && p.Line == at && strings.HasSuffix(p.Message, want)
			}) {
				t.Errorf("%s: %s gives %v; want line %d, %s", path, outside, problems, at, want)
			}
		}
		for _, inside := range []string{least, most} {
			text, _ := nest(path, inside)
			if _, err := parseIn(text); err != nil && slices.ContainsFunc(err.(Problems), func(p Problem) bool { return strings.Contains(p.Message, "range") }) {
				t.Errorf("%s: %s is refused: %v", path, inside, err)
			}
		}
	})
	if ranged < 10 {
		t.Errorf("%d ranged keys found", ranged)
	}
}

func below(t *testing.T, typ reflect.Type, bound string) string { return shift(t, typ, bound, -1) }
func above(t *testing.T, typ reflect.Type, bound string) string { return shift(t, typ, bound, 1) }

func shift(t *testing.T, typ reflect.Type, bound string, by int64) string {
	t.Helper()
	v := reflect.New(typ).Elem()
	if err := set(v, bound); err != nil {
		t.Fatal(err)
	}
	if (v.Int()+by > v.Int()) != (by > 0) {
		return ""
	}
	v.SetInt(v.Int() + by)
	return fmt.Sprint(v.Interface())
}

// nest writes one key into an otherwise empty file, and tells its line. List elements are the first and only ones.
func nest(path, value string) (text string, line int) {
	var b strings.Builder
	indent, dash := "", ""
	for part := range strings.SplitSeq(path, ".") {
		line++
		key, list := strings.CutSuffix(part, "[0]")
		fmt.Fprintf(&b, "%s%s%s:", indent, dash, key)
		indent, dash = indent+strings.Repeat(" ", len(dash))+"  ", ""
		if list {
			dash = "- "
		}
		if line <= strings.Count(path, ".") {
			b.WriteByte('\n')
		}
	}
	fmt.Fprintf(&b, " '%s'\n", value)
	return b.String(), line
}

// eachScalar visits every key that takes a value, lists by their first element.
func eachScalar(t reflect.Type, path string, visit func(string, reflect.StructField)) {
	for i := range t.NumField() {
		f := t.Field(i)
		at := join(path, f.Tag.Get("yaml"))
		switch f.Type.Kind() {
		case reflect.Struct:
			eachScalar(f.Type, at, visit)
		case reflect.Slice:
			eachScalar(f.Type.Elem(), at+"[0]", visit)
		case reflect.Pointer:
			eachScalar(f.Type.Elem(), at, visit)
		default:
			visit(at, f)
		}
	}
}

func TestAllMistakesAreReportedAtOnceInOrder(t *testing.T) {
	problems := problemsOf(t, `logg: {}
log:
  level: loud
  level: quiet
subscription_proxy:
  verification_timeout: 2
  max_backoff_interval: 48h
stores:
  - id: a
    subscriptions:
      - name: n
        type: by_magic
        selector: x
      - name: n
        type: by_event_pattern
        selector: x
`, "SUBPROXY_HTTP_ADDR", "nowhere")
	var got []string
	for _, p := range problems {
		got = append(got, fmt.Sprintf("%d:%d %s", p.Line, p.Column, p.Path))
	}
	want := []string{
		"0:0 http.addr", "1:1 logg", "3:10 log.level", "4:3 log.level", "6:25 subscription_proxy.verification_timeout",
		"7:25 subscription_proxy.max_backoff_interval", "12:15 stores[0].subscriptions[0].type",
		"14:15 stores[0].subscriptions[1].name", "16:19 stores[0].subscriptions[1].selector",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s\nin full\n%v", strings.Join(got, "\n"), strings.Join(want, "\n"), problems)
	}
	if lines := strings.Split(problems.Error(), "\n"); len(lines) != len(want) || !strings.HasPrefix(lines[1], "f.yaml:1:1: logg: ") {
		t.Errorf("printed as\n%v", problems)
	}
}

func TestUnreadableFileIsNoProblemOfItsContent(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "absent.yaml"), noEnvironment)
	var problems Problems
	if !errors.Is(err, os.ErrNotExist) || errors.As(err, &problems) {
		t.Errorf("got %v", err)
	}
}
