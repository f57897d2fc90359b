package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/exesdb/subproxy/pkg/subscription"
	"github.com/exesdb/subproxy/test/harness"
)

const contract = "../../subjects.md"

func readContract(t testing.TB) string {
	t.Helper()
	page, err := os.ReadFile(contract)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

var (
	matchExample = regexp.MustCompile("(?s)<!-- example: ([a-z_]+) -->\n```json\n(.*?)\n```")
	matchJSON    = regexp.MustCompile("(?m)^```json$")
)

// examples are the page's, by name.
func examples(t testing.TB) map[string]string {
	t.Helper()
	page := readContract(t)
	found := map[string]string{}
	for _, m := range matchExample.FindAllStringSubmatch(page, -1) {
		if found[m[1]] != "" {
			t.Errorf("two examples named %s", m[1])
		}
		found[m[1]] = m[2]
	}
	if all := len(matchJSON.FindAllString(page, -1)); all != len(found) {
		t.Errorf("%d JSON blocks and %d named examples: one has no <!-- example: NAME -->", all, len(found))
	}
	return found
}

// shape is every path of a JSON value with the kind of what is there. What is in an empty or null place is not known.
func shape(t testing.TB, data string) map[string]string {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(data), &value); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	paths := map[string]string{}
	walk(paths, "", value)
	return paths
}

func walk(paths map[string]string, path string, value any) {
	switch v := value.(type) {
	case map[string]any:
		paths[path] = "object"
		for key, inner := range v {
			walk(paths, path+"."+key, inner)
		}
	case []any:
		paths[path] = "array"
	case string:
		paths[path] = "string"
		if _, err := time.Parse(time.RFC3339Nano, v); err == nil {
			paths[path] = "time"
		}
	case float64:
		paths[path] = "number"
	case bool:
		paths[path] = "boolean"
	default:
		paths[path] = "null"
	}
}

// same compares what is said with what is written on the page, both ways.
func same(t *testing.T, name, example, real string) {
	t.Helper()
	page, code := shape(t, example), shape(t, real)
	for _, path := range slices.Sorted(maps.Keys(page)) {
		if code[path] != page[path] {
			t.Errorf("%s: the page has %s as %s; the code sends %q: %s", name, path, page[path], code[path], real)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(code)) {
		if page[path] == "" {
			t.Errorf("%s: the code sends %s, which the page does not have: %s", name, path, real)
		}
	}
}

func TestContractExamplesAreWhatIsSent(t *testing.T) {
	t.Parallel()
	page := examples(t)
	w := newWorld(t)
	c := fastToFail(t, w.URL, store("greenhouse_tycoon",
		config.Subscription{Name: "greenhouse_initialized_to_pubsub_v1", Type: "by_event_type", Selector: "greenhouse_initialized:v1"},
		config.Subscription{Name: "b", Type: "by_stream", Selector: "$all"}))
	c.Status.SummaryInterval = 100 * time.Millisecond
	const (
		key    = "greenhouse_tycoon.by_event_type.greenhouse_initialized=3Av1.greenhouse_initialized_to_pubsub_v1"
		tokens = "greenhouse_tycoon.greenhouse_initialized_to_pubsub_v1"
	)
	i, first := w.settled(c, key, tokens)
	said := map[string]bool{} // names of examples held to the code
	hold := func(name, real string) {
		t.Helper()
		said[name] = true
		if page[name] == "" {
			t.Errorf("the page has no example named %s", name)
			return
		}
		same(t, name, page[name], real)
	}

	// Examples of what subproxy hears are sent to it as they stand on the page, and do what the page says.
	w.Publish(harness.LeaderChanged, page["leader_changed"])
	r := w.Await(key, "registered by the example", harness.After(first.Revision, "leader_changed"))
	if r.Term != 42 {
		t.Errorf("the example's term became %d", r.Term)
	}
	w.AwaitStatus(tokens, "verified", harness.VerifiedAt(r.Revision))
	entry, err := w.BucketKV().Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	hold("registration", string(entry.Value()))
	hold("status", string(w.Latest("exesdb.proxy.status."+tokens)))
	w.Publish(harness.EmitterRestarted, page["emitter_restarted"])
	w.Await(key, "registered by the example", harness.After(r.Revision, "emitter_restarted"))
	if i.counter(t, "cluster_events_malformed_total") != 0 {
		t.Error("an example counts as malformed")
	}
	answered, err := w.NC.Request("exesdb.proxy.control.restart", []byte(page["request"]), harness.Patience)
	if err != nil {
		t.Fatal(err)
	}
	var action map[string]any
	if err := json.Unmarshal(answered.Data, &action); err != nil || action["verified"] != 1.0 {
		t.Errorf("the example of a request was answered with %s", answered.Data)
	}
	hold("action_response", string(answered.Data))
	said["request"], said["leader_changed"], said["emitter_restarted"] = true, true, true
	// What the bridge would send has the examples' fields, and the envelope's.
	for name, e := range map[string]cluster.Event{
		"leader_changed":    {Kind: cluster.LeaderChanged, ID: "x", Store: "s", Leader: "a", PreviousLeader: "b", Term: 1, Reason: "r", SeenAt: time.Now()},
		"emitter_restarted": {Kind: cluster.EmitterRestarted, ID: "x", Store: "s", Emitter: "a", Topic: "t", SeenAt: time.Now()},
	} {
		data, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		same(t, name, strings.Replace(page[name], "{", `{"type":"t","id":"i","timestamp":"2026-11-23T07:00:00Z",`, 1), string(data))
	}

	w.Eventually("a summary with a leader", func() bool {
		return w.Latest("exesdb.proxy.summary.greenhouse_tycoon") != nil && strings.Contains(string(w.Latest("exesdb.proxy.summary.greenhouse_tycoon")), `"leader":"n2"`)
	})
	hold("summary", string(w.Latest("exesdb.proxy.summary.greenhouse_tycoon")))
	for verb, list := range map[string]string{"status": "proxies", "list": "proxies"} {
		m, err := w.NC.Request("exesdb.proxy.control."+verb, nil, harness.Patience)
		if err != nil {
			t.Fatal(err)
		}
		name := verb + "_response"
		if page[name] != "" {
			hold(name, string(m.Data))
		}
		var a map[string]json.RawMessage
		if err := json.Unmarshal(m.Data, &a); err != nil || a["instance"] == nil || a["part"] == nil || a["parts"] == nil || a[list] == nil {
			t.Errorf("%s was answered with %s", verb, m.Data)
		}
		same(t, "instance of "+name, string(instanceOf(t, page["action_response"])), string(a["instance"]))
	}

	// The example of an alert is one of the whole store, which both its subscriptions bring about.
	stream := w.keepAlerts()
	w.node.Stop()
	w.Eventually("notice the loss", func() bool { return !i.Connected() })
	for range 5 {
		i.attempt(t)
	}
	w.Eventually("raise the alert", func() bool { return i.counter(t, "alerts_total", "level=critical", "scope=store") == 1 })
	if err := w.node.Restart(); err != nil {
		t.Fatal(err)
	}
	w.Eventually("hear of it", func() bool { return len(stream()) >= 1 })
	alerts, err := w.JS.Stream(t.Context(), "ALERTS")
	if err != nil {
		t.Fatal(err)
	}
	m, err := alerts.GetMsg(t.Context(), 1)
	if err != nil || m.Subject != "exesdb.proxy.alert.greenhouse_tycoon" {
		t.Fatalf("the store's alert came on %v: %v", m, err)
	}
	hold("alert", string(m.Data))

	for name := range page {
		if !said[name] && !slices.Contains(deliveryExamples, name) && !slices.Contains(sessionExamples, name) {
			t.Errorf("example %s is held to nothing", name)
		}
	}
}

func instanceOf(t testing.TB, example string) json.RawMessage {
	return harness.Decode[map[string]json.RawMessage](t, []byte(example))["instance"]
}

func TestContractNamesEverySubjectOfTheCode(t *testing.T) {
	t.Parallel()
	code := map[string]bool{
		config.Default().SubscriptionProxy.LeaderChangedSubject:    true,
		config.Default().SubscriptionProxy.EmitterRestartedSubject: true,
		kv.RepublishTo + "<key>":                                   true,
		status.StatusPrefix + "<store>.<name>":                     true,
		status.AlertPrefix + "<store>.<name>":                      true,
		status.AlertPrefix + "<store>":                             true,
		status.SummaryPrefix + "<store>":                           true,
		status.HandOverPrefix + "<instance id>":                    true,
		status.SupersededPrefix + "<instance name>":                true,
		"exesdb.proxy.deliver.<instance id>.<n>":                   true, // held to records in TestLeaderChangeReregistersAtOnceAndIsVerified
		kv.ClusterTo + "<key>":                                     true,
		event.SubjectPrefix + "<store>.<stream id>.<event type>":   true,
		emitter.StoredSubject + "<store>.<stream id>.<event type>": true,
		event.ProgressPrefix + "<store>":                           true,
		sink.DeliveredPrefix + "<store>.<name>":                    true,
		deadletter.Prefix + "<store>.<name>":                       true,
		control.Prefix + "<verb>":                                  true,
	}
	overview, _, ok := strings.Cut(readContract(t), "| bucket |")
	if !ok {
		t.Fatal("the page has no table of buckets after that of subjects")
	}
	table := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(exesdb\\.[^`]+)` \\|").FindAllStringSubmatch(overview, -1) {
		table[m[1]] = true
	}
	for subject := range code {
		if !table[subject] {
			t.Errorf("the page's table does not name %s", subject)
		}
	}
	for subject := range table {
		if !code[subject] {
			t.Errorf("the page's table names %s, which this test does not know of the code", subject)
		}
	}
}

func TestContractListsWhatTheCodeKnows(t *testing.T) {
	t.Parallel()
	page := readContract(t)
	for _, kind := range sink.Kinds() {
		if !strings.Contains(page, "`"+string(kind)+"`") {
			t.Errorf("the page does not name sink %s", kind)
		}
	}
	for _, cause := range registration.Causes() {
		if !strings.Contains(page, "`"+string(cause)+"`") {
			t.Errorf("the page does not name cause %s", cause)
		}
	}
	for _, kind := range subscription.Types() {
		if !strings.Contains(page, "`"+string(kind)+"`") {
			t.Errorf("the page does not name type %s", kind)
		}
	}
	for _, text := range []string{
		control.CodeBadRequest + " | `" + control.BadRequest + "`", control.CodeNotFound + " | `" + control.ProxyNotFound + "`",
		control.CodeUnavailable + " | `" + control.TemporaryFailure + "`", "`" + kv.DefaultBucket + "`",
		fmt.Sprintf("A key is at most %d,%03d bytes", subscription.MaxKeyLength/1000, subscription.MaxKeyLength%1000),
		control.StatusAnswerType, control.ListAnswerType,
	} {
		if !strings.Contains(page, text) {
			t.Errorf("the page does not say %q", text)
		}
	}
}

func TestContractTokensRoundTrip(t *testing.T) {
	t.Parallel()
	_, section, _ := strings.Cut(readContract(t), "## Names as tokens")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| `([^`]+)` \\|$").FindAllStringSubmatch(section, -1)
	if len(rows) < 4 {
		t.Fatalf("%d rows in the table of tokens", len(rows))
	}
	for _, row := range rows {
		if token := subscription.EncodeToken(row[1]); token != row[2] {
			t.Errorf("%q encodes to %q, the page says %q", row[1], token, row[2])
		}
		if name, err := subscription.DecodeToken(row[2]); err != nil || name != row[1] {
			t.Errorf("%q decodes to %q, %v; the page says %q", row[2], name, err, row[1])
		}
	}
	for _, m := range regexp.MustCompile("`(=[0-9A-Za-z]{2})`").FindAllStringSubmatch(section, -1) {
		if _, err := subscription.DecodeToken(m[1]); m[1] != "=XX" && err == nil {
			t.Errorf("the page says that %s is refused; it is taken", m[1])
		}
	}
	// The registration's example lies under the key that its fields make.
	r := harness.Decode[subscription.Subscription](t, []byte(examples(t)["registration"]))
	back, err := subscription.ParseKey(r.Key())
	if err != nil || back != (subscription.Subscription{Store: r.Store, Type: r.Type, Selector: r.Selector, Name: r.Name}) {
		t.Errorf("key %s parses to %+v, %v", r.Key(), back, err)
	}
}
