package config

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEnvironmentOverridesTheFile(t *testing.T) {
	c := mustParse(t, "nats: {url: a}\nlog: {level: warn}\nbridge: {streams: [{stream: E, store: s}]}"+oneStore, map[string]string{
		"SUBPROXY_NATS_URL":                                       "nats://b:4222,nats://c:4222",
		"SUBPROXY_NATS_TLS_HANDSHAKE_FIRST":                       "true",
		"SUBPROXY_LOG_LEVEL":                                      "debug",
		"SUBPROXY_SUBSCRIPTION_PROXY_NORMAL_REREGISTER_INTERVAL":  "1m30s",
		"SUBPROXY_METRICS_SUBSCRIPTION_LABEL_LIMIT":               "0",
		"SUBPROXY_BRIDGE_STREAMS_0_EVENT":                         "emitter_restarted",
		"SUBPROXY_BRIDGE_STREAMS_0_STORE":                         "t",
		"SUBPROXY_STORES_0_ID":                                    "t",
		"SUBPROXY_STORES_0_DEFAULTS_START_VERSION":                "-1",
		"SUBPROXY_STORES_0_SUBSCRIPTIONS_0_SELECTOR":              "y",
		"SUBPROXY_STORES_0_SUBSCRIPTIONS_0_FORWARD_SUBJECT":       "f",
		"SUBPROXY_STORES_0_SUBSCRIPTIONS_1_SELECTOR":              "not in the file",
		"SUBPROXY_STORES_1_ID":                                    "not in the file",
		"SUBPROXY_SUBSCRIPTION_PROXY_ENABLE_EXPONENTIAL_BACKOFF_": "not a variable of ours",
	})
	want := Default()
	want.NATS.URL, want.NATS.TLS.HandshakeFirst = "nats://b:4222,nats://c:4222", true
	want.Log.Level = "debug"
	want.SubscriptionProxy.NormalReregisterInterval = 90 * time.Second
	want.Metrics.SubscriptionLabelLimit = 0
	want.Bridge.Streams = []BridgeStream{{Stream: "E", Store: "t", Event: "emitter_restarted"}}
	want.Stores = []Store{{
		ID: "t", Stream: StoreStream{Replicas: 1, Storage: "file", Compression: "none"}, Defaults: Defaults{Type: "by_event_type", StartVersion: -1},
		Subscriptions: []Subscription{{
			Name: "a", Type: "by_event_type", Selector: "y", StartVersion: -1,
			Forward: &Forward{Sink: "publish", Subject: "f", Timeout: 5 * time.Second, MaxDeliver: 5, OnGap: "continue"},
		}},
	}}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEmptyVariableEmptiesAText(t *testing.T) {
	c := mustParse(t, "nats: {url: a}"+oneStore, map[string]string{"SUBPROXY_NATS_URL": "", "SUBPROXY_NATS_CONTEXT": "c"})
	if c.NATS != (NATS{Context: "c", ConnectTimeout: 30 * time.Second}) {
		t.Errorf("got %+v", c.NATS)
	}
}

func TestBadVariableIsNamed(t *testing.T) {
	for name, test := range map[string]struct {
		env  map[string]string
		want []string
	}{
		"duration": {
			map[string]string{"SUBPROXY_STATUS_HEARTBEAT_INTERVAL": "15"},
			[]string{`environment: status.heartbeat_interval: SUBPROXY_STATUS_HEARTBEAT_INTERVAL: "15" is not a duration; write it like 15s or 1m30s`},
		},
		"range": {
			map[string]string{"SUBPROXY_STATUS_HEARTBEAT_INTERVAL": "2h"},
			[]string{"environment: status.heartbeat_interval: SUBPROXY_STATUS_HEARTBEAT_INTERVAL: 2h is out of range; write 1s to 1h"},
		},
		"emptied": {
			map[string]string{"SUBPROXY_STORES_0_ID": "", "SUBPROXY_HTTP_PPROF": ""},
			[]string{
				`environment: http.pprof: SUBPROXY_HTTP_PPROF: "" is not a truth value; write true or false`,
				"environment: stores[0].id: SUBPROXY_STORES_0_ID: is required and must not be empty; write it like greenhouse_tycoon",
			},
		},
		"with the file": {
			map[string]string{"SUBPROXY_SUBSCRIPTION_PROXY_FAILURE_NOTIFICATION_THRESHOLD": "8"},
			[]string{"environment: subscription_proxy.failure_notification_threshold: SUBPROXY_SUBSCRIPTION_PROXY_FAILURE_NOTIFICATION_THRESHOLD: 8 is above max_consecutive_failures; write 1 to 5, or raise that"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, problems(t, oneStore, test.env)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestEveryScalarHasAVariable(t *testing.T) {
	asked := map[string]bool{}
	_, err := Parse("f.yaml", []byte("bridge: {streams: [{stream: E, store: s}]}"+oneStore), func(name string) (string, bool) {
		asked[name] = true
		return "", false
	})
	if err != nil {
		t.Fatal(err)
	}
	scalars := 0
	everyScalar(schema, "", func(path string, _ field) {
		scalars++
		if !asked[variable(path)] {
			t.Errorf("%s: %s is not asked for", path, variable(path))
		}
	})
	if scalars < 40 || scalars != len(asked) {
		t.Errorf("%d scalars, %d variables", scalars, len(asked))
	}
}

func everyScalar(fields []field, path string, visit func(path string, f field)) {
	for _, f := range fields {
		at := child(path, f.name)
		switch f.kind {
		case group, optional:
			everyScalar(f.fields, at, visit)
		case list:
			everyScalar(f.fields, element(at, 0), visit)
		default:
			visit(at, f)
		}
	}
}

// TestTagsAreSound: a wrong tag would otherwise show only in the field's first use.
func TestTagsAreSound(t *testing.T) {
	everyScalar(schema, "", func(path string, f field) {
		for _, s := range []string{f.min, f.max} {
			if _, err := f.parse(s); s != "" && err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		for _, s := range append([]string{f.fallback, f.example}, f.oneOf...) {
			if s == "" {
				continue
			}
			v, err := f.parse(s)
			if err == nil {
				err = f.check(s, v)
			}
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		if f.kind == boolean && f.fallback == "" {
			t.Errorf("%s: a truth value has a default, even if it is false", path)
		}
		if f.doc == "" || f.name == "" || f.format != "" && formats[f.format] == nil {
			t.Errorf("%s: incomplete tags", path)
		}
	})
	if got := reflect.TypeFor[Config]().NumField(); got != len(schema) {
		t.Errorf("%d fields, %d in the schema", got, len(schema))
	}
}
