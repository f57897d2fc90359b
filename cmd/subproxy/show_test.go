package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/exesdb/subproxy/pkg/subscription"
)

func sub(store, name string) subscription.Subscription {
	return subscription.Subscription{Store: store, Type: subscription.ByStream, Selector: "$all", Name: name}
}

func entry(t *testing.T, s subscription.Subscription, revision uint64, owner string) kv.Entry {
	t.Helper()
	r := registration.Registration{Subscription: s, Owner: registration.Owner{Name: owner, ID: owner + "-id"}, Incarnation: 1, Cause: registration.Initial}
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return kv.Entry{Key: s.Key(), Revision: revision, Data: data}
}

func statusOf(s subscription.Subscription, h breaker.Health, by string) status.Status {
	return status.Status{
		Store: s.Store, Name: s.Name, SubscriptionType: s.Type, Selector: s.Selector, Health: h, Owner: registration.Owner{Name: by, ID: by + "-id"},
	}
}

func TestRowsJoinTheRegistryAndTheInstances(t *testing.T) {
	a, b := sub("s", "a"), sub("s", "b")
	for _, c := range []struct {
		name     string
		entries  []kv.Entry
		statuses []status.Status
		want     []string // store/name health owner of the record, owner of the status
	}{
		{"nothing", nil, nil, nil},
		{"held", []kv.Entry{entry(t, a, 1, "x")}, []status.Status{statusOf(a, breaker.Healthy, "x")}, []string{"s/a healthy x x"}},
		{"nobody answers for it", []kv.Entry{entry(t, a, 1, "x")}, nil, []string{"s/a unreachable x -"}},
		{"standing by for an owner that does not answer", []kv.Entry{entry(t, a, 1, "x")}, []status.Status{statusOf(a, breaker.Standby, "x")}, []string{"s/a unreachable x x"}},
		{"standing by for one that does", []kv.Entry{entry(t, a, 1, "x")},
			[]status.Status{statusOf(a, breaker.Standby, "x"), statusOf(a, breaker.Degraded, "x")}, []string{"s/a degraded x x"}},
		{"the same, heard in the other order", []kv.Entry{entry(t, a, 1, "x")},
			[]status.Status{statusOf(a, breaker.Degraded, "x"), statusOf(a, breaker.Standby, "x")}, []string{"s/a degraded x x"}},
		{"not registered yet", nil, []status.Status{statusOf(a, breaker.Unknown, "x")}, []string{"s/a unknown - x"}},
		{"standing by with nothing registered", nil, []status.Status{statusOf(a, breaker.Standby, "x")}, []string{"s/a unreachable - x"}},
		{"sorted by store and name", []kv.Entry{entry(t, sub("t", "a"), 3, "x"), entry(t, b, 1, "x")}, []status.Status{statusOf(a, breaker.Failed, "y")},
			[]string{"s/a failed - y", "s/b unreachable x -", "t/a unreachable x -"}},
		{"unreadable record, readable key", []kv.Entry{{Key: a.Key(), Revision: 1, Data: []byte("?")}}, nil, []string{"s/a unreachable - - unreadable"}},
		{"unreadable record, held", []kv.Entry{{Key: a.Key(), Revision: 1, Data: []byte("?")}}, []status.Status{statusOf(a, breaker.Healthy, "x")},
			[]string{"s/a healthy - x unreadable"}},
		{"nothing readable", []kv.Entry{{Key: "what.is.this", Revision: 1, Data: []byte("?")}}, nil, []string{"/what.is.this unreachable - - unreadable"}},
	} {
		var got []string
		for _, r := range joinRows(c.entries, c.statuses) {
			line := []string{r.Store + "/" + r.Name, r.Health, "-", "-"}
			if r.Registration != nil {
				line[2] = r.Registration.Owner.Name
			}
			if r.Status != nil {
				line[3] = r.Status.Owner.Name
			}
			if r.Unreadable != "" {
				line = append(line, "unreadable")
			}
			got = append(got, strings.Join(line, " "))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestExitStatusTellsWhatTheTableTells(t *testing.T) {
	for want, healths := range map[string][]string{
		"":                                     {"healthy", "standby"},
		"3 of 4 subscriptions are not healthy": {"unreachable", "healthy", "unknown", "failed"},
	} {
		var rows []row
		for _, h := range healths {
			rows = append(rows, row{Health: h})
		}
		got := ""
		if err := unhealthy(rows); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%v: got %q, want %q", healths, got, want)
		}
	}
}

func TestWatchPrintsChangesOnly(t *testing.T) {
	at := time.Date(2026, 11, 23, 7, 0, 0, 0, time.Local)
	st := statusOf(sub("s", "a"), breaker.Healthy, "x")
	st.Timestamp, st.Registered, st.Verified, st.Verification, st.LastCause, st.Revision, st.Incarnation, st.LatencyMS = at, true, true, "on", registration.Initial, 7, 1, 1.25
	heartbeat := st
	heartbeat.ID, heartbeat.Timestamp = "another", at.Add(30*time.Second)
	heartbeat.LatencyMS, heartbeat.NextAttemptAt = 2, &at
	failed := st
	failed.Health, failed.Breaker, failed.ConsecutiveFailures, failed.LastError = breaker.Failed, breaker.Open, 5, "no quorum"
	standby := statusOf(sub("s", "a"), breaker.Standby, "y")
	standby.Timestamp = at
	other := statusOf(sub("s", "b"), breaker.Unknown, "")
	other.Timestamp, other.Owner = at, registration.Owner{}

	var b bytes.Buffer
	p := newWatchPrinter(&b, false)
	for _, s := range []status.Status{st, heartbeat, failed, failed, standby, other, other, st} {
		p.print(&s)
	}
	const verified = "07:00:00.000  s/a  healthy  initial: verified yes in 1.2 ms, revision 7, incarnation 1, by x\n"
	want := verified +
		"07:00:00.000  s/a  failed  failures 5, breaker open: no quorum\n" +
		"07:00:00.000  s/a  standby  held by y\n" +
		"07:00:00.000  s/b  unknown\n" + verified
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestWatchPrintsJSONLines(t *testing.T) {
	var b bytes.Buffer
	p := newWatchPrinter(&b, true)
	st := statusOf(sub("s", "a"), breaker.Healthy, "x")
	p.print(&st)
	p.print(&st)
	var got status.Status
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || got.Name != "a" || strings.Count(b.String(), "\n") != 1 {
		t.Errorf("%v in %s", err, b.String())
	}
}

func TestSubscriptionsOfADeadInstanceAreShownAsUnreachable(t *testing.T) {
	n, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Shutdown()
	if out, err := execute(t, "status", "-s", n.URL()); err != nil || !strings.Contains(out, "STORE") {
		t.Errorf("with nothing there: %v\n%s", err, out)
	}
	nc, err := nats.Connect(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := kv.Open(t.Context(), js, kv.Config{})
	if err != nil {
		t.Fatal(err)
	}
	dead := entry(t, sub("s", "a"), 0, "gone")
	if err := bucket.Put(t.Context(), []kv.Write{{Key: dead.Key, Data: dead.Data}})[0].Err; err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"list", "status"} {
		out, err := execute(t, command, "-s", n.URL(), "--json")
		var rows []row
		if decode := json.Unmarshal([]byte(out), &rows); decode != nil || len(rows) != 1 || rows[0].Health != unreachable || rows[0].Name != "a" || rows[0].Registration.Owner.Name != "gone" {
			t.Errorf("%s --json: %v\n%s", command, decode, out)
		}
		if (err != nil) != (command == "status") {
			t.Errorf("%s --json: %v", command, err)
		}
		if out, _ := execute(t, command, "-s", n.URL(), "s"); !strings.Contains(out, "unreachable") || !strings.Contains(out, "gone") {
			t.Errorf("%s:\n%s", command, out)
		}
	}
	if _, err := execute(t, "status", "-s", n.URL(), "s", "none"); !errors.Is(err, control.ErrProxyNotFound) {
		t.Errorf("status of what is not there: %v", err)
	}
	for _, command := range []string{"restart", "reregister"} {
		if _, err := execute(t, command, "-s", n.URL(), "s", "a"); !errors.Is(err, control.ErrProxyNotFound) || !strings.Contains(err.Error(), command+" s/a") {
			t.Errorf("%s: %v", command, err)
		}
	}
}

func TestAgo(t *testing.T) {
	for want, since := range map[string]time.Duration{"now": -time.Hour, "1h0m0s ago": time.Hour} {
		if got := ago(time.Now().Add(-since)); got != want {
			t.Errorf("%v: got %s", since, got)
		}
	}
	if got := ago(time.Time{}); got != "-" {
		t.Errorf("never: got %s", got)
	}
}

func TestStatusShowsMessagesThatAreNoEventsOnceAStore(t *testing.T) {
	var rows []row
	for i, name := range []string{"a", "b", "c"} {
		st := statusOf(sub("s", name), breaker.Healthy, "x")
		if i > 0 {
			st.PassedOver = &event.PassedOver{Messages: uint64(i), Sequence: 5, Subject: "exesdb.events.s.a", Reason: "no event", At: time.Unix(int64(i), 0)}
		}
		rows = append(rows, row{Subscription: sub("s", name), Health: "healthy", Status: &st})
	}
	var out bytes.Buffer
	cmd := newStatus()
	cmd.SetOut(&out)
	if err := showStatus(cmd, rows, false); err != nil {
		t.Fatal(err)
	}
	const want = "store s: messages of the store's stream that are no events reach nobody: 2 so far; the last is at sequence 5, on exesdb.events.s.a: no event\n"
	if strings.Count(out.String(), "store s:") != 1 || !strings.HasSuffix(out.String(), want) {
		t.Errorf("printed\n%s", out.String())
	}
}
