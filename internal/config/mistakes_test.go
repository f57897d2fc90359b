package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMistakeHasPlacePathAndRemedy(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("é", 200)
	for name, test := range map[string]struct {
		yaml string
		want string // without the file name
	}{
		"syntax":             {"nats: [1\n", "1:7: not YAML: sequence end token ']' not found"},
		"syntax, tab":        {"nats:\n\turl: x\n", "2:1: not YAML: found character '\\t' that cannot start any token"},
		"syntax, indent":     {"nats:\n  url: x\n   context: y\n", "2:8: not YAML: mapping value is not allowed in this context"},
		"not UTF-8":          {"log:\n  level: \xff\n", "2:10: this byte is not UTF-8; save the file as UTF-8"},
		"too deep":           {strings.Repeat("[", 1001), "1:1001: more than 1000 brackets deep or 16384 bytes long; write shorter lines"},
		"second document":    {"---\nlog: {}" + oneStore + "---\nnats: {}\n", "5:1: a second document; write one only, without a --- in between"},
		"not a map":          {"- nats\n", "1:1: a map is wanted (nats, instance, registry, subscription_proxy, status, delivery, emitter, parked, bridge, http, metrics, log and 1 more), not a list"},
		"empty":              {"", "1:1: stores: at least one store is required"},
		"comments only":      {"# nothing\n\n# here\n", "1:1: stores: at least one store is required"},
		"no store":           {"log: {}\nstores: []\n", "2:9: stores: at least one store is required"},
		"null store list":    {"stores:\n", "1:1: stores: at least one store is required"},
		"unknown, near":      {"nats: {ulr: x}" + oneStore, `1:8: nats.ulr: unknown key "ulr"; did you mean "url"?`},
		"unknown, other way": {"status:\n  heartbeatInterval: 1s" + oneStore, `2:3: status.heartbeatInterval: unknown key "heartbeatInterval"; did you mean "heartbeat_interval"?`},
		"unknown, far":       {"log: {zebra: x}" + oneStore, `1:7: log.zebra: unknown key "zebra"; known here: level, format`},
		"unknown, odd":       {"log: {\"a b\": x}" + oneStore, `1:7: log."a b": unknown key "a b"; known here: level, format`},
		"key is a list":      {"log: {[a]: x}" + oneStore, "1:10: not YAML: found an invalid key for this map"},
		"duplicate key":      {"log:\n  level: info\n  level: warn" + oneStore, `3:3: log.level: duplicate key "level"; the first is on line 2; keep one`},
		"list for map":       {"nats: [a]" + oneStore, "1:7: nats: a map is wanted (url, context, credentials, user, password, token, nkey, user_jwt, user_seed, tls, connect_timeout, domain and 2 more), not a list"},
		"text for map":       {"nats: a" + oneStore, "1:7: nats: a map is wanted (url, context, credentials, user, password, token, nkey, user_jwt, user_seed, tls, connect_timeout, domain and 2 more), not text"},
		"map for list":       {"stores:\n  id: s\n", `2:3: stores: a list, each element after a "- " is wanted, not a map`},
		"map for text":       {"log: {level: {a: b}}" + oneStore, "1:14: log.level: text is wanted, not a map"},
		"list for duration":  {"status: {summary_interval: [5s]}" + oneStore, "1:28: status.summary_interval: a duration is wanted, not a list"},
		"no value":           {"log:\n  level:" + oneStore, "2:3: log.level: has no value; write text, or leave the key out"},
		"number for text":    {"instance: {name: 12}" + oneStore, `1:18: instance.name: 12 is a number and text is wanted; write "12", in quotes`},
		"truth for text":     {"instance: {name: true}" + oneStore, `1:18: instance.name: true is a truth value and text is wanted; write "true", in quotes`},
		"text for number":    {"metrics: {subscription_label_limit: many}" + oneStore, `1:37: metrics.subscription_label_limit: "many" is not a whole number; write it in decimal digits, like 1000`},
		"quoted number":      {"registry: {replicas: \"3\"}" + oneStore, `1:22: registry.replicas: "3" is text and a whole number is wanted; write 3, without quotes`},
		"fraction":           {"registry: {replicas: 3.0}" + oneStore, `1:22: registry.replicas: "3.0" is not a whole number; write it in decimal digits, like 1`},
		"huge number":        {"metrics: {subscription_label_limit: 99999999999999999999}" + oneStore, `1:37: metrics.subscription_label_limit: "99999999999999999999" is out of range; write 0 to 100000`},
		"yes":                {"http: {pprof: yes}" + oneStore, `1:15: http.pprof: "yes" is not a truth value; write true or false`},
		"no unit":            {"subscription_proxy:\n  normal_reregister_interval: 15" + oneStore, `2:31: subscription_proxy.normal_reregister_interval: "15" is not a duration; write it like 15s or 1m30s`},
		"too short":          {"subscription_proxy: {normal_reregister_interval: 99ms}" + oneStore, "1:50: subscription_proxy.normal_reregister_interval: 99ms is out of range; write 100ms to 24h"},
		"too long":           {"subscription_proxy: {verification_timeout: 61s}" + oneStore, "1:44: subscription_proxy.verification_timeout: 61s is out of range; write 10ms to 1m"},
		"too few":            {"subscription_proxy: {max_consecutive_failures: 0, failure_notification_threshold: 1}" + oneStore, "1:48: subscription_proxy.max_consecutive_failures: 0 is out of range; write 1 to 1000"},
		"replicas":           {"registry: {replicas: 2}" + oneStore, `1:22: registry.replicas: "2" is none of 1, 3, 5`},
		"enumeration":        {"log: {format: jsn}" + oneStore, `1:15: log.format: "jsn" is none of auto, text, json; did you mean "json"?`},
		"bucket":             {"registry: {bucket: a.b}" + oneStore, `1:20: registry.bucket: "a.b" is not a bucket name; write up to 252 of A-Z a-z 0-9 _ -`},
		"empty bucket":       {"registry: {bucket: ''}" + oneStore, "1:20: registry.bucket: is required and must not be empty; write it like exesdb_subscriptions"},
		"wildcard":           {"subscription_proxy: {leader_changed_subject: a.*}" + oneStore, `1:46: subscription_proxy.leader_changed_subject: "a.*" has a wildcard; write a literal subject, like app.events.greenhouse`},
		"subject":            {"subscription_proxy: {emitter_restarted_subject: a..b}" + oneStore, `1:49: subscription_proxy.emitter_restarted_subject: "a..b" is not a NATS subject; write tokens without white space, joined by single dots, like app.events.greenhouse`},
		"same subjects":      {"subscription_proxy: {leader_changed_subject: exesdb.emitter.restarted}" + oneStore, `1:46: subscription_proxy.emitter_restarted_subject: "exesdb.emitter.restarted" is leader_changed_subject too; write two different subjects`},
		"threshold":          {"subscription_proxy: {failure_notification_threshold: 6}" + oneStore, "1:54: subscription_proxy.failure_notification_threshold: 6 is above max_consecutive_failures; write 1 to 5, or raise that"},
		"URL":                {"nats: {url: 'nats://u:secret@a, http://u:secret@b'}" + oneStore, `1:13: nats.url: URL 2 of the list has scheme "http"; write nats, tls, ws or wss`},
		"URL list":           {"nats: {url: 'a:4222,'}" + oneStore, "1:13: nats.url: URL 2 of the list is not a URL; write it like nats://127.0.0.1:4222"},
		"empty URL":          {"nats: {url: ''}" + oneStore, "1:13: nats.url: must not be empty without nats.context; write it like nats://127.0.0.1:4222"},
		"context and URL":    {"nats: {context: c, url: a}" + oneStore, "1:25: nats.url: excluded by nats.context, which brings its own; remove one of the two, or make it empty"},
		"file":               {"nats: {credentials: nowhere.creds}" + oneStore, `1:21: nats.credentials: "nowhere.creds" can't be read (no such file or directory); name a file that this process may read`},
		"two users":          {"nats: {user: u, token: t}" + oneStore, "1:24: nats.token: excluded by nats.user, which says already who connects; remove one of the two, or make it empty"},
		"context and user":   {"nats: {context: c, user: u}" + oneStore, "1:26: nats.user: excluded by nats.context, which brings its own; remove one of the two, or make it empty"},
		"password alone":     {"nats: {password: p}" + oneStore, "1:18: nats.password: needs nats.user; write both or neither"},
		"JWT without seed":   {"nats: {user_jwt: doc.go}" + oneStore, "1:18: nats.user_jwt: needs nats.user_seed; name both files or neither"},
		"seed without JWT":   {"nats: {user_seed: doc.go}" + oneStore, "1:19: nats.user_seed: needs nats.user_jwt; name both files or neither"},
		"domain and prefix":  {"nats: {domain: hub, api_prefix: JS.acc.API}" + oneStore, "1:33: nats.api_prefix: excluded by nats.domain, which stands for the prefix $JS.hub.API; remove one of the two, or make it empty"},
		"domain":             {"nats: {domain: a.b}" + oneStore, `1:16: nats.domain: "a.b" is no single token of a subject; write it without white space, dots and wildcards, like hub`},
		"cert without key":   {"nats: {tls: {cert: doc.go}}" + oneStore, "1:20: nats.tls.cert: needs nats.tls.key; name both files or neither"},
		"key without cert":   {"nats: {tls: {key: doc.go}}" + oneStore, "1:19: nats.tls.key: needs nats.tls.cert; name both files or neither"},
		"address":            {"http: {addr: '8080'}" + oneStore, `1:14: http.addr: "8080" is not host:port; write it like 127.0.0.1:8080 or :8080`},
		"port":               {"http: {addr: ':65536'}" + oneStore, `1:14: http.addr: ":65536" is not host:port; write it like 127.0.0.1:8080 or :8080`},
		"bridge store":       {"bridge: {streams: [{stream: E, store: t}]}" + oneStore, `1:39: bridge.streams[0].store: "t" is no store of this file; write one of s`},
		"bridge stream":      {"bridge: {streams: [{stream: a.b, store: s}]}" + oneStore, `1:29: bridge.streams[0].stream: "a.b" is not a stream name; write up to 255 bytes without white space and without . * > / \`},
		"empty id":           {"stores: [{id: '', subscriptions: [{name: a, selector: x}]}]", "1:15: stores[0].id: is required and must not be empty; write it like greenhouse_tycoon"},
		"missing name":       {"stores:\n- id: s\n  subscriptions:\n  - selector: x\n", "4:5: stores[0].subscriptions[0].name: is required and must not be empty; write it like greenhouse_initialized_to_pubsub_v1"},
		"missing selector":   {"stores:\n- id: s\n  subscriptions:\n  - name: x\n", "4:5: stores[0].subscriptions[0].selector: is required and must not be empty; write it like greenhouse_initialized:v1"},
		"emptied selector":   {"stores:\n- id: s\n  defaults: {selector: x}\n  subscriptions:\n  - name: x\n    selector: ''\n", "6:15: stores[0].subscriptions[0].selector: is required and must not be empty; write it like greenhouse_initialized:v1"},
		"white space":        {"stores:\n- id: s\n  subscriptions:\n  - name: x\n    selector: |\n      y\n", `5:15: stores[0].subscriptions[0].selector: "y\n" begins or ends with white space; take it away (a YAML block ends without it after |- or >-)`},
		"duplicate store":    {"stores:\n- id: s\n  subscriptions: [{name: a, selector: x}]\n- id: s\n", `4:7: stores[1].id: duplicate store id "s"; the first is on line 2; rename one`},
		"duplicate name":     {"stores:\n- id: s\n  subscriptions:\n  - {name: a, selector: x}\n  - {name: a, selector: y}\n", `5:12: stores[0].subscriptions[1].name: duplicate subscription name "a"; the first is on line 4; rename one`},
		"type":               {"stores: [{id: s, subscriptions: [{name: a, type: stream, selector: x}]}]", `1:50: stores[0].subscriptions[0].type: "stream" is none of by_stream, by_event_type, by_event_pattern, by_event_payload; did you mean "by_stream"?`},
		"payload selector":   {"stores: [{id: s, subscriptions: [{name: a, type: by_event_payload, selector: '[1]'}]}]", `1:78: stores[0].subscriptions[0].selector: "[1]" is not a JSON object, and type by_event_payload needs one; write it like '{"key": "value"}'`},
		"inherited selector": {"stores: [{id: s, defaults: {selector: x}, subscriptions: [{name: a, type: by_event_pattern}, {name: b, type: by_event_pattern}]}]", `1:39: stores[0].defaults.selector: "x" is not a JSON object, and type by_event_pattern needs one; write it like '{"key": "value"}'`},
		"start version":      {"stores: [{id: s, subscriptions: [{name: a, selector: x, start_version: -2}]}]", "1:72: stores[0].subscriptions[0].start_version: -2 is out of range; write -1 or more"},
		"long key":           {"stores: [{id: " + long + ", subscriptions: [{name: a, selector: x}]}]", "1:233: stores[0].subscriptions[0]: the registration key <store>.<type>.<selector>.<name> is 1218 bytes long, at most 1024 are allowed; shorten one of them (a byte outside A-Z a-z 0-9 _ - counts three)"},
		"forward":            {"stores: [{id: s, subscriptions: [{name: a, selector: x, forward: {sink: request}}]}]", "1:66: stores[0].subscriptions[0].forward.subject: is required where forward is given; write it like app.events.greenhouse"},
		"inherited forward":  {"stores: [{id: s, defaults: {forward: {timeout: 1s}}, subscriptions: [{name: a, selector: x}, {name: b, selector: x}]}]", "1:38: stores[0].defaults.forward.subject: is required where forward is given; write it like app.events.greenhouse"},
		"forward timeout":    {"stores: [{id: s, subscriptions: [{name: a, selector: x, forward: {subject: t, timeout: 11m}}]}]", "1:88: stores[0].subscriptions[0].forward.timeout: 11m is out of range; write 10ms to 10m"},
		"tag":                {"log: {level: !!str info}" + oneStore, "1:14: log.level: tag !!str is not supported; leave it out"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff([]string{"f.yaml:" + test.want}, problems(t, test.yaml, nil)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	t.Run("directory for file", func(t *testing.T) {
		got := problems(t, "nats: {credentials: '"+dir+"'}"+oneStore, nil)
		if len(got) != 1 || !strings.Contains(got[0], "(a directory); name a file that this process may read") {
			t.Errorf("got %q", got)
		}
	})
}

func TestAllMistakesAreReportedAtOnceInOrder(t *testing.T) {
	got := problems(t, `
nats: {url: 12, contxt: x, url: foo}
subscription_proxy:
  normal_reregister_interval: 15
  max_consecutive_failures: "5"
  failure_notification_threshold: 6
stores:
  - id: s
    subscriptions:
      - {name: a, type: by_evnt_type, selector: x}
      - {name: b, type: by_event_type, selector: x}
      - {name: c, type: by_event_payload, selector: x, start_version: -2}
      - *nope
  - id: s
wibble: 3
`, map[string]string{"SUBPROXY_LOG_LEVEL": "loud"})
	want := []string{
		`f.yaml:2:13: nats.url: 12 is a number and text is wanted; write "12", in quotes`,
		`f.yaml:2:17: nats.contxt: unknown key "contxt"; did you mean "context"?`,
		`f.yaml:2:28: nats.url: duplicate key "url"; the first is on line 2; keep one`,
		`f.yaml:4:31: subscription_proxy.normal_reregister_interval: "15" is not a duration; write it like 15s or 1m30s`,
		`f.yaml:5:29: subscription_proxy.max_consecutive_failures: "5" is text and a whole number is wanted; write 5, without quotes`,
		`f.yaml:10:25: stores[0].subscriptions[0].type: "by_evnt_type" is none of by_stream, by_event_type, by_event_pattern, by_event_payload; did you mean "by_event_type"?`,
		`f.yaml:12:53: stores[0].subscriptions[2].selector: "x" is not a JSON object, and type by_event_payload needs one; write it like '{"key": "value"}'`,
		`f.yaml:12:71: stores[0].subscriptions[2].start_version: -2 is out of range; write -1 or more`,
		`f.yaml:13:9: stores[0].subscriptions[3]: ` + noReferences,
		`f.yaml:14:9: stores[1].id: duplicate store id "s"; the first is on line 8; rename one`,
		`f.yaml:15:1: wibble: unknown key "wibble"; known here: nats, instance, registry, subscription_proxy, status, delivery, emitter, parked, bridge, http, metrics, log, stores`,
		`environment: log.level: SUBPROXY_LOG_LEVEL: "loud" is none of debug, info, warn, error`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPasswordInURLIsNotReported(t *testing.T) {
	for _, url := range []string{"nats://u:secret@a:x", "http://u:secret@a", "nats://u:sec%ret@a"} {
		for _, line := range problems(t, "nats: {url: '"+url+"'}"+oneStore, nil) {
			if strings.Contains(line, "sec") {
				t.Errorf("%s shows the password", line)
			}
		}
	}
}
