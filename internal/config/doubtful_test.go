package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// warnings are the lines of a Parse that succeeds.
func warnings(t *testing.T, yaml string, env map[string]string) (lines []string) {
	t.Helper()
	c, ws, err := parse("f.yaml", []byte(yaml), environment(env))
	if err != nil || c == nil {
		t.Fatalf("%v\nin\n%s", err, yaml)
	}
	for _, w := range ws {
		lines = append(lines, w.String())
	}
	return lines
}

func TestSelectorThatProbablyPicksNothingIsWarnedOf(t *testing.T) {
	const stream = `is no pattern: it picks events of exactly that stream id; write one stream id a subscription, ` +
		`type: by_stream, selector: "$all" for every event, or a JSON object with type: by_event_pattern`
	const eventType = `is no pattern: it picks events of exactly that event type; write one event type a subscription, ` +
		`type: by_stream, selector: "$all" for every event, or a JSON object with type: by_event_pattern`
	got := warnings(t, `
stores:
  - id: s
    defaults: {selector: "*"}
    subscriptions:
      - {name: a, type: by_stream, selector: orders-*}
      - name: b
        type: by_stream
        selector: orders.>
      - {name: c, type: by_event_type, selector: order.*}
      - {name: d, type: by_event_type, selector: $all}
      - {name: e, type: by_stream, selector: $ALL}
      - {name: f}
      - {name: g}
      - {name: h, type: by_stream}
      - {name: i, type: by_stream, selector: ">"}
`, map[string]string{"SUBPROXY_STORES_0_SUBSCRIPTIONS_0_SELECTOR": "x*"})
	want := []string{
		`f.yaml:4:26: warning: stores[0].defaults.selector: "*" ` + eventType,
		`f.yaml:4:26: warning: stores[0].defaults.selector: "*" ` + stream,
		`f.yaml:9:19: warning: stores[0].subscriptions[1].selector: "orders.>" ` + stream,
		`f.yaml:10:50: warning: stores[0].subscriptions[2].selector: "order.*" ` + eventType,
		`f.yaml:11:50: warning: stores[0].subscriptions[3].selector: "$all" picks events of exactly that type; for every event of the store write type: by_stream, selector: "$all"`,
		`f.yaml:12:46: warning: stores[0].subscriptions[4].selector: "$ALL" picks events of exactly that stream id; for every event of the store write "$all"`,
		`f.yaml:16:46: warning: stores[0].subscriptions[8].selector: ">" ` + stream,
		`environment: warning: stores[0].subscriptions[0].selector: SUBPROXY_STORES_0_SUBSCRIPTIONS_0_SELECTOR: "x*" ` + stream,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSelectorThatMayPickSomethingIsNotWarnedOf(t *testing.T) {
	for _, s := range []string{
		"type: by_stream, selector: $all", "type: by_stream, selector: all", "type: by_stream, selector: o.1", "type: by_stream, selector: $orders",
		"type: by_event_type, selector: order.created", "type: by_event_type, selector: 'created:v1'",
		`type: by_event_pattern, selector: '{"subject":"*"}'`, `type: by_event_payload, selector: '{"text":"a > b"}'`,
	} {
		if got := warnings(t, "stores: [{id: s, subscriptions: [{name: a, "+s+"}]}]", nil); len(got) > 0 {
			t.Errorf("%s:\n%s", s, strings.Join(got, "\n"))
		}
	}
}
