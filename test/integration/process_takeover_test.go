//go:build unix

package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/exesdb/subproxy/test/harness"
	"github.com/nats-io/nats.go/micro"
)

func processRestartTakesOver(t *testing.T, subproxy string) {
	node := harness.StartServers(t, 1)[0]
	w := attach(t, node.URL())
	subscriptions, keys := processMany(500)
	config := harness.ConfigFile(t, processConfig(node.URL(), 1, subscriptions...))
	first := harness.Serve(t, subproxy, config)
	processAwait(w, first, len(keys), "registered", processAnyStatus)
	before := processRecords(w, keys, "registered", func(r harness.Record) bool { return r.Owner.ID == first.ID && r.Incarnation == 1 })

	first.MustKill()
	began := time.Now()
	second := harness.Serve(t, subproxy, config)
	statuses := processAwait(w, second, len(keys), "taken over", func(s harness.Status) bool { return s.Incarnation == 2 })
	t.Logf("start of the next run to all verified %s", processVerifiedAt(statuses).Sub(began).Round(time.Millisecond))
	now := processRecords(w, keys, "taken over", func(r harness.Record) bool { return r.Owner.ID == second.ID })
	for _, key := range keys {
		was, is := before[key], now[key]
		if is.Incarnation != 2 || is.Owner.Name != was.Owner.Name || is.Cause != "initial" || !strings.HasPrefix(is.DeliverSubject, "exesdb.proxy.deliver."+second.ID+".") {
			t.Errorf("the record is\n%+v, after\n%+v", is, was)
		}
	}
	if last := processLast(w); last != 2*uint64(len(keys)) {
		t.Errorf("the bucket's last revision is %d, want %d: each written once by each run", last, 2*len(keys))
	}
}

func processSupersededRunNeverWritesAgain(t *testing.T, subproxy string) {
	node := harness.StartServers(t, 1)[0]
	w := attach(t, node.URL())
	subscriptions, keys := processMany(500)
	config := harness.ConfigFile(t, processConfig(node.URL(), 1, subscriptions...))
	first := harness.Serve(t, subproxy, config)
	processAwait(w, first, len(keys), "registered", processAnyStatus)
	if code, body := first.Get("/readyz"); code != http.StatusOK {
		t.Errorf("readyz of the first: %d %s", code, body)
	}

	first.MustSignal(syscall.SIGSTOP)
	second := harness.Serve(t, subproxy, config)
	processAwait(w, second, len(keys), "taken over", func(s harness.Status) bool { return s.Incarnation == 2 })
	// What waits for the first when it wakes up is not only the other's registrations but a cause to
	// register too.
	last := processLast(w)
	w.Publish(harness.LeaderChanged, `{"store":"greenhouse","term":7}`)
	processAwait(w, second, len(keys), "registered anew", processSince(last, "leader_changed"))
	first.MustSignal(syscall.SIGCONT)

	var asked harness.Responder
	w.Eventually("the first to say that it is superseded", func() bool {
		instance, statuses, ok := w.StatusesOf(first.ID)
		asked = instance
		for _, s := range statuses {
			ok = ok && s.Health == "standby" && s.Owner.ID == second.ID && !s.Registered && !s.Verified
		}
		return ok && len(statuses) == len(keys) && asked.Superseded
	})
	if lines := first.Log.Entries("another run of this instance's name took over"); len(lines) != 1 || lines[0]["by_id"] != second.ID {
		t.Errorf("the first logged %v", lines)
	}
	if code, body := first.Get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "took over") {
		t.Errorf("readyz of the first: %d %s", code, body)
	}
	if code, body := first.Get("/healthz"); code != http.StatusOK {
		t.Errorf("healthz of the first: %d %s", code, body)
	}
	if code, body := second.Get("/readyz"); code != http.StatusOK {
		t.Errorf("readyz of the second: %d %s", code, body)
	}
	if ids := processInstances(w, 2); !ids[first.ID] || !ids[second.ID] {
		t.Errorf("micro INFO names %v, want %s and %s", ids, first.ID, second.ID)
	}

	// Every cause there is, of which the superseded run must hear and must not act.
	for round, cause := range []string{"leader_changed", "emitter_restarted", "manual"} {
		last := processLast(w)
		switch cause {
		case "leader_changed":
			w.Publish(harness.LeaderChanged, `{"store":"greenhouse","term":8}`)
		case "emitter_restarted":
			w.Publish(harness.EmitterRestarted, `{"store":"greenhouse"}`)
		default:
			if a := w.AskOne("reregister", ""); a.Instance.ID != second.ID || a.Verified != len(keys) {
				t.Errorf("reregister was answered by %s with %d verified", a.Instance.ID, a.Verified)
			}
		}
		processAwait(w, second, len(keys), "registered anew", processSince(last, cause))
		if _, statuses, ok := w.StatusesOf(first.ID); !ok || len(statuses) != len(keys) {
			t.Errorf("round %d: the first does not answer", round)
		}
		if now := processLast(w); now != last+uint64(len(keys)) {
			t.Errorf("%s: %d writes, want %d, all by the second", cause, now-last, len(keys))
		}
	}
	for _, one := range w.Writes()[len(keys):] {
		if one.Record.Owner.ID != second.ID {
			t.Fatalf("written after the second began: %+v", one)
		}
	}

	// Its end releases nothing that is the other's.
	last = processLast(w)
	first.MustSignal(syscall.SIGTERM)
	if code := first.Exit(); code != 0 {
		t.Errorf("exit status of the superseded run %d, want 0", code)
	}
	if now := processLast(w); now != last {
		t.Errorf("the end of the superseded run wrote %d times", now-last)
	}
	processAwait(w, second, len(keys), "still registered", func(s harness.Status) bool { return s.Incarnation == 2 })
}

// processInstances are the instance ids in the answers to micro's INFO, once there are n.
func processInstances(w *world, n int) map[string]bool {
	w.Helper()
	sub, err := w.NC.SubscribeSync(w.NC.NewInbox())
	if err == nil {
		err = w.NC.PublishRequest("$SRV.INFO.subproxy", sub.Subject, nil)
	}
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	ids := map[string]bool{}
	for range n {
		m, err := sub.NextMsg(harness.Patience)
		if err != nil {
			w.Fatalf("%d of %d answered INFO: %v", len(ids), n, err)
		}
		var info micro.Info
		if err := json.Unmarshal(m.Data, &info); err != nil {
			w.Fatal(fmt.Errorf("INFO: %w", err))
		}
		ids[info.Metadata["instance_id"]] = true
	}
	return ids
}
