package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/sink"
)

// startParked starts a server, and returns its URL and a connection.
func startParked(t *testing.T) (url string, nc *nats.Conn, js jetstream.JetStream) {
	t.Helper()
	n, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Shutdown)
	if nc, err = nats.Connect(n.URL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	return n.URL(), nc, js
}

// park parks an event for each sink, the first as 1.
func park(t *testing.T, js jetstream.JetStream, store, data string, sinks ...sink.Config) {
	t.Helper()
	parked, err := deadletter.Open(t.Context(), js, deadletter.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range sinks {
		e := &sink.Event{Store: store, Subscription: "audit", Sequence: uint64(100 + i), Incarnation: 2, Message: &nats.Msg{
			Header: nats.Header{event.IDHeader: {"an-id"}, event.TypeHeader: {"initialized:v1"}, event.SubjectHeader: {"greenhouse-1"}}, Data: []byte(data),
		}}
		if err := sink.Park(t.Context(), parked, e, c, "no area", 5); err != nil {
			t.Fatal(err)
		}
	}
}

func TestParkedMistakesAreUsageErrors(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"fly"}, `subproxy parked has no command "fly"`},
		{[]string{"list", "a", "b", "c"}, "STORE and NAME, both optional, not 3"},
		{[]string{"show"}, "subproxy parked show takes a SEQ"},
		{[]string{"show", "x"}, `"x" is not a SEQ`},
		{[]string{"replay"}, "one SEQ or more, or --all"},
		{[]string{"replay", "1", "0"}, `"0" is not a SEQ`},
		{[]string{"replay", "1", "--timeout", "0s"}, "--timeout"},
		{[]string{"replay", "--all", "a", "b", "c"}, "with --all STORE and NAME"},
		{[]string{"drop"}, "one SEQ or more, or --all"},
		{[]string{"drop", "greenhouse"}, `"greenhouse" is not a SEQ`},
	} {
		out, err := execute(t, append([]string{"parked"}, c.args...)...)
		var use *command.UsageError
		if !errors.As(err, &use) || !strings.Contains(err.Error(), c.says) || out != "" {
			t.Errorf("subproxy parked %s: got %v; want a usage error that says %s\n%s", strings.Join(c.args, " "), err, c.says, out)
		}
	}
	if out, err := execute(t, "parked"); err != nil || !strings.Contains(out, "replay") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestNothingParkedIsNoError(t *testing.T) {
	url, _, _ := startParked(t)
	if out, err := execute(t, "parked", "list", "-s", url); err != nil || !strings.Contains(out, "REASON") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := execute(t, "parked", "list", "-s", url, "--json"); err != nil || out != "[]\n" {
		t.Errorf("%v\n%s", err, out)
	}
	for _, command := range []string{"replay", "drop"} {
		if out, err := execute(t, "parked", command, "-s", url, "--all"); err != nil || out != "" {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
	if _, err := execute(t, "parked", "show", "-s", url, "1"); !errors.Is(err, deadletter.ErrNotParked) {
		t.Errorf("show: %v", err)
	}
	if out, err := execute(t, "parked", "drop", "-s", url, "7"); err == nil || err.Error() != "1 of 1 not dropped" || !strings.Contains(out, "7: not parked") {
		t.Errorf("drop: %v\n%s", err, out)
	}
}

func TestParkedEventsAreShown(t *testing.T) {
	url, _, js := startParked(t)
	request := sink.Config{Kind: sink.Request, Subject: "billing.in"}
	park(t, js, "greenhouse", `{"area":12}`, request)
	park(t, js, "other", "plain text", request)
	park(t, js, "binary", "\xff\x00", request)

	out, err := execute(t, "parked", "list", "-s", url, "greenhouse", "audit")
	if err != nil || strings.Contains(out, "other") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, want := range []string{"SEQ", "STORE SEQ", "greenhouse", "audit", "100", "initialized:v1", "greenhouse-1", "5", "ago", "no area"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	var rows []parkedRow
	out, err = execute(t, "parked", "list", "-s", url, "--json")
	if decode := json.Unmarshal([]byte(out), &rows); err != nil || decode != nil || len(rows) != 3 || rows[1].Store != "other" || rows[1].Bytes != 10 || rows[1].Data != nil {
		t.Errorf("%v %v\n%s", err, decode, out)
	}
	for seq, want := range map[string]string{"1": `{"area":12}`, "2": "plain text", "3": "2 bytes that are no text"} {
		out, err := execute(t, "parked", "show", "-s", url, seq)
		if err != nil || !strings.Contains(out, "\n"+want) || !strings.Contains(out, "request billing.in\nreason: no area\n") || !strings.Contains(out, "ce-type: initialized:v1\n") {
			t.Errorf("%v\n%s", err, out)
		}
	}
	for seq, want := range map[string]string{"1": "12", "2": `"data": "plain text"`, "3": `"data_base64": "/wA="`} {
		var r parkedRow
		out, err := execute(t, "parked", "show", "-s", url, "--json", seq)
		if decode := json.Unmarshal([]byte(out), &r); err != nil || decode != nil || r.StoreSequence != 100 || r.Header.Get(event.IDHeader) != "an-id" || !strings.Contains(out, want) {
			t.Errorf("%v %v\n%s", err, decode, out)
		}
	}
}

func TestReplayTellsWhatBecameOfEachParkedEvent(t *testing.T) {
	url, nc, js := startParked(t)
	published, err := nc.SubscribeSync("billing.events")
	if err != nil {
		t.Fatal(err)
	}
	refuse := func(m *nats.Msg) { _ = m.Respond([]byte("-NAK still no area")) }
	if _, err := nc.Subscribe("billing.in", refuse); err != nil {
		t.Fatal(err)
	}
	park(t, js, "greenhouse", "{}",
		sink.Config{Kind: sink.Publish, Subject: "billing.events"}, sink.Config{Kind: sink.Request, Subject: "billing.in"},
		sink.Config{Kind: sink.Request, Subject: "nobody"}, sink.Config{Kind: sink.Request, Subject: "nobody"}, sink.Config{Kind: sink.Handler})
	out, err := execute(t, "parked", "replay", "-s", url, "--all", "greenhouse")
	if err == nil || err.Error() != "4 of 5 not accepted" {
		t.Errorf("got %v", err)
	}
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	for i, want := range []string{
		"1\tgreenhouse/audit\t100\taccepted", "2\tgreenhouse/audit\t101\trefused: still no area", "3\tgreenhouse/audit\t102\tno subscriber listens on nobody",
		"4\tgreenhouse/audit\t103\tnot tried", "5\tgreenhouse/audit\t104\tinvalid sink: a handler",
	} {
		if len(lines) != 5 || !strings.HasPrefix(lines[i], want) {
			t.Fatalf("no %q in\n%s", want, out)
		}
	}
	if m, err := published.NextMsgWithContext(t.Context()); err != nil || string(m.Data) != "{}" || m.Header.Get(event.IDHeader) != "an-id" {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := nc.Subscribe("nobody", func(m *nats.Msg) { _ = m.Respond(nil) }); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if out, err := execute(t, "parked", "replay", "-s", url, "4", "3"); err != nil || !strings.HasPrefix(out, "4\t") || strings.Count(out, "accepted") != 2 {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := execute(t, "parked", "replay", "-s", url, "4"); err == nil || !strings.Contains(out, "not parked") {
		t.Errorf("again: %v\n%s", err, out)
	}
	if out, err := execute(t, "parked", "drop", "-s", url, "5"); err != nil || out != "5\tgreenhouse/audit\t104\tdropped\n" {
		t.Errorf("%v\n%s", err, out)
	}
	park(t, js, "other", "{}", sink.Config{Kind: sink.Handler})
	if out, err := execute(t, "parked", "drop", "-s", url, "--all", "greenhouse"); err != nil || strings.Count(out, "dropped") != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := execute(t, "parked", "list", "-s", url); err != nil || strings.Contains(out, "greenhouse/") || !strings.Contains(out, "other") {
		t.Errorf("%v\n%s", err, out)
	}
}
