//go:build unix

package integration

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/exesdb/subproxy/test/harness"
)

func processSeenWithNATSCLI(t *testing.T, subproxy string) {
	natsCLI, err := exec.LookPath("nats")
	if err != nil {
		t.Skip("there is no nats CLI in PATH: go install github.com/nats-io/natscli/nats@v0.5.1")
	}
	node := harness.StartServers(t, 1)[0]
	w := attach(t, node.URL())
	config := strings.Replace(processConfig(node.URL(), 1,
		"{name: audit, type: by_stream, selector: $all}", "{name: to pubsub, type: by_event_type, selector: 'initialized:v1'}"),
		"status: {", "status: {heartbeat_interval: 1s, ", 1)
	proxy := harness.Serve(t, subproxy, harness.ConfigFile(t, config))
	processAwait(w, proxy, 2, "registered", processAnyStatus)
	cli := func(args ...string) string {
		t.Helper()
		o := harness.Command(t, natsCLI, append([]string{"--server", node.URL()}, args...)...)
		if o.Code != 0 {
			t.Errorf("nats %s: exit status %d: %s%s", strings.Join(args, " "), o.Code, o.Stdout, o.Stderr)
		}
		return o.Stdout
	}
	const auditKey, otherKey = "greenhouse.by_stream.=24all.audit", "greenhouse.by_event_type.initialized=3Av1.to=20pubsub"
	if listed := cli("kv", "ls", harness.Bucket); !strings.Contains(listed, auditKey) || !strings.Contains(listed, otherKey) {
		t.Errorf("nats kv ls: %s", listed)
	}
	got := harness.Decode[harness.Record](t, []byte(cli("kv", "get", harness.Bucket, otherKey, "--raw")))
	if got.Store != processStore || got.Name != "to pubsub" || got.Selector != "initialized:v1" || got.Type != "by_event_type" || got.Owner.ID != proxy.ID || got.Incarnation != 1 {
		t.Errorf("nats kv get: %+v", got)
	}
	if listed := cli("micro", "ls"); !strings.Contains(listed, "subproxy") {
		t.Errorf("nats micro ls: %s", listed)
	}
	info := cli("micro", "info", "subproxy")
	stats := cli("micro", "stats", "subproxy")
	for _, verb := range []string{"list", "status", "restart", "reregister"} {
		if !strings.Contains(info, "exesdb.proxy.control."+verb) {
			t.Errorf("nats micro info lacks %s: %s", verb, info)
		}
		if !strings.Contains(stats, verb) {
			t.Errorf("nats micro stats lacks %s: %s", verb, stats)
		}
	}
	if !strings.Contains(info, proxy.ID) {
		t.Errorf("nats micro info lacks the instance's id: %s", info)
	}
	said := harness.Decode[harness.Status](t, []byte(cli("sub", "exesdb.proxy.status.>", "--count", "1", "--raw")))
	if said.Store != processStore || said.Health != "healthy" || said.Owner.ID != proxy.ID {
		t.Errorf("nats sub: %+v", said)
	}
	request := fmt.Sprintf(`{"store":%q,"name":"audit"}`, processStore)
	a := harness.Decode[harness.Answer](t, []byte(cli("request", "exesdb.proxy.control.restart", request, "--raw")))
	if a.Affected != 1 || a.Verified != 1 || len(a.Proxies) != 1 || a.Proxies[0].Incarnation != 2 || a.Proxies[0].LastCause != "manual" {
		t.Errorf("nats request restart: %+v", a)
	}
	if r := w.Await(auditKey, "restarted", func(r harness.Record) bool { return r.Incarnation == 2 }); r.Owner.ID != proxy.ID {
		t.Errorf("the restarted registration is %+v", r)
	}
	before := processLast(w)
	cli("pub", harness.LeaderChanged, `{"store":"greenhouse","leader":"n2"}`)
	processAwait(w, proxy, 2, "registered for the leader change", processSince(before, "leader_changed"))
	cli("kv", "del", harness.Bucket, auditKey, "--force")
	w.Await(auditKey, "registered after it was deleted by hand", func(r harness.Record) bool { return r.Cause == "lost" && r.Incarnation == 2 })
}

func processCommandsSayHowTheyEnded(t *testing.T, subproxy string) {
	node := harness.StartServers(t, 1)[0]
	config := harness.ConfigFile(t, processConfig(node.URL(), 1, "{name: audit, type: by_stream, selector: $all}", "{name: other, type: by_stream, selector: $all}"))
	broken := harness.ConfigFile(t, "stores: 7\n")
	const nowhere = "nats://127.0.0.1:1"
	expect := func(code int, says string, args ...string) (stdout string) {
		t.Helper()
		o := harness.Command(t, subproxy, args...)
		if o.Code != code || !strings.Contains(o.Stdout+o.Stderr, says) {
			t.Errorf("subproxy %s: exit status %d, want %d and %q:\n%s%s", strings.Join(args, " "), o.Code, code, says, o.Stdout, o.Stderr)
		}
		if o.Code != 0 && !strings.HasPrefix(o.Stderr, "subproxy: ") {
			t.Errorf("subproxy %s: failed and said %q", strings.Join(args, " "), o.Stderr)
		}
		return o.Stdout
	}
	s := []string{"-s", node.URL()}
	at := func(args ...string) []string { return append(args, s...) }

	expect(0, "subproxy ", "version")
	expect(2, "takes", "version", "extra")
	expect(2, "unknown command", "nonsense")
	expect(0, "good; stores 1, subscriptions 2", "check", "--config", config)
	expect(0, "normal_reregister_interval", "check", "--defaults")
	expect(1, broken+":1:9: ", "check", "--config", broken)
	expect(1, "nowhere.yaml", "check", "--config", "nowhere.yaml")
	expect(2, "give --config", "check")
	expect(2, "exclude", "check", "--defaults", "--config", config)
	expect(2, "give a configuration", "run")
	expect(2, "unknown flag", "run", "--nonsense")
	expect(1, broken+":1:9: ", "run", "--config", broken)

	// Nobody runs and there is no bucket: nothing is listed, nothing is unhealthy, and nothing can be acted
	// on.
	expect(0, "STORE", at("list")...)
	expect(0, "STORE", at("status")...)
	expect(1, "proxy_not_found", at("status", processStore, "audit")...)
	expect(1, "proxy_not_found", at("restart", processStore, "audit")...)
	expect(1, "proxy_not_found", at("reregister")...)

	// From here on somebody watches every subject, so that NATS does not tell when no instance listens.
	w := attach(t, node.URL())
	proxy := harness.Serve(t, subproxy, config)
	processAwait(w, proxy, 2, "registered", processAnyStatus)
	expect(0, "audit", at("list")...)
	expect(0, "audit", at("list", processStore)...)
	expect(2, "takes", at("list", "a", "b")...)
	expect(1, nowhere, "list", "-s", nowhere)
	expect(0, "healthy", at("status")...)
	expect(0, "audit", at("status", processStore, "audit")...)
	expect(1, "proxy_not_found", at("status", processStore, "nobody")...)
	expect(2, "takes", at("status", "a", "b", "c")...)
	expect(1, nowhere, "status", "-s", nowhere)
	expect(0, "1 of 1 registered and verified", at("restart", processStore, "audit")...)
	expect(1, "proxy_not_found", at("restart", processStore, "nobody")...)
	expect(2, "takes", at("restart", processStore)...)
	expect(1, nowhere, "restart", processStore, "audit", "-s", nowhere)
	expect(0, "2 of 2 registered and verified", at("reregister")...)
	expect(0, "1 of 1 registered and verified", at("reregister", processStore, "other")...)
	expect(1, "proxy_not_found", at("reregister", "nostore")...)
	expect(2, "takes", at("reregister", "a", "b", "c")...)

	var rows []struct {
		Name         string
		Health       string
		Registration *harness.Record
	}
	if err := json.Unmarshal([]byte(expect(0, "", at("list", "--json")...)), &rows); err != nil || len(rows) != 2 {
		t.Fatalf("list --json: %v %+v", err, rows)
	}
	for _, row := range rows {
		want := map[string]uint64{"audit": 2, "other": 1}[row.Name]
		if row.Health != "healthy" || row.Registration == nil || row.Registration.Incarnation != want || row.Registration.Cause != "manual" {
			t.Errorf("list --json: %+v", row)
		}
	}

	// Registered, and nobody answers for it.
	proxy.MustKill()
	expect(0, "unreachable", at("list")...)
	expect(1, "2 of 2 subscriptions are not healthy", at("status")...)
	expect(1, "proxy_not_found", at("restart", processStore, "audit")...)
}
