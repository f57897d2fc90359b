package service

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/exesdb/subproxy/internal/natsnode"
)

func startResponder(t *testing.T) (*responder, *nats.Conn) {
	t.Helper()
	n, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Shutdown)
	nc, err := nats.Connect(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	r := newResponder(nc, "things", "1.2.3", "does things", map[string]string{"a": "b"}, slog.New(slog.DiscardHandler))
	t.Cleanup(r.close)
	return r, nc
}

func ask[T any](t *testing.T, nc *nats.Conn, subject, body string) (answer T, m *nats.Msg) {
	t.Helper()
	m, err := nc.Request(subject, []byte(body), 10*time.Second)
	if err == nil {
		err = json.Unmarshal(m.Data, &answer)
	}
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	return answer, m
}

func TestRequestsAreAnsweredSideBySideAndCountedWhenTheyAre(t *testing.T) {
	r, nc := startResponder(t)
	const slow, failing, took = 3, 4, 50 * time.Millisecond
	together := make(chan struct{}, slow)
	err := r.add("wait", "things.wait", func(ctx context.Context, q *request) {
		together <- struct{}{}
		for len(together) < slow { // they wait for each other
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Millisecond):
			}
		}
		time.Sleep(took)
		_ = q.respond(map[string]int{"n": 1})
	})
	if err == nil {
		err = r.add("fail", "things.fail", func(_ context.Context, q *request) { _ = q.refuse("400", "bad_request", "no") })
	}
	if err == nil {
		err = r.serve()
	}
	if err != nil {
		t.Fatal(err)
	}
	replies, err := nc.SubscribeSync("replies")
	if err != nil {
		t.Fatal(err)
	}
	for range slow {
		if err := nc.PublishRequest("things.wait", "replies", nil); err != nil {
			t.Fatal(err)
		}
	}
	for range slow {
		if _, err := replies.NextMsg(10 * time.Second); err != nil {
			t.Fatalf("requests are not answered side by side: %v", err)
		}
	}
	for range failing {
		body, m := ask[map[string]string](t, nc, "things.fail", "")
		if body["error"] != "no" || m.Header.Get("Nats-Service-Error-Code") != "400" || m.Header.Get("Nats-Service-Error") != "bad_request" {
			t.Errorf("refused with %v, %v", m.Header, body)
		}
	}
	var stats micro.Stats
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); { // the last is counted after its answer
		stats, _ = ask[micro.Stats](t, nc, "$SRV.STATS.things", "")
		if len(stats.Endpoints) == 2 && stats.Endpoints[0].NumRequests == slow && stats.Endpoints[1].NumRequests == failing {
			break
		}
	}
	if stats.Type != micro.StatsResponseType || stats.Name != "things" || stats.Started.IsZero() || len(stats.Endpoints) != 2 {
		t.Fatalf("stats %+v", stats)
	}
	wait, fail := stats.Endpoints[0], stats.Endpoints[1]
	if wait.NumRequests != slow || wait.NumErrors != 0 || wait.ProcessingTime < slow*took || wait.AverageProcessingTime < took || wait.Subject != "things.wait" {
		t.Errorf("of the slow ones: %+v", wait)
	}
	if fail.NumRequests != failing || fail.NumErrors != failing || fail.LastError != "400:bad_request" {
		t.Errorf("of those that were refused: %+v", fail)
	}
}

func TestServiceIsFoundAsMicroHasIt(t *testing.T) {
	r, nc := startResponder(t)
	err := r.add("one", "things.one", func(context.Context, *request) {})
	if err == nil {
		err = r.serve()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", ".things", ".things." + r.identity.ID} {
		ping, _ := ask[micro.Ping](t, nc, "$SRV.PING"+suffix, "")
		info, _ := ask[micro.Info](t, nc, "$SRV.INFO"+suffix, "")
		if ping.Type != micro.PingResponseType || ping.ID != r.identity.ID || ping.Version != "1.2.3" || ping.Metadata["a"] != "b" {
			t.Errorf("%s: %+v", suffix, ping)
		}
		if info.Type != micro.InfoResponseType || info.Description != "does things" || len(info.Endpoints) != 1 || info.Endpoints[0].Subject != "things.one" {
			t.Errorf("%s: %+v", suffix, info)
		}
	}
	r.stop()
	if _, err := nc.Request("$SRV.PING.things", nil, 10*time.Second); err != nats.ErrNoResponders {
		t.Errorf("a stopped service: %v", err)
	}
}

func TestRequestIsRefusedInWordsOfTheContract(t *testing.T) {
	for body, want := range map[string]string{
		`{"store":1}`:              `"store" is a number; it has to be a text`,
		`{"store":["a"]}`:          `"store" is a list; it has to be a text`,
		`{"store":{"a":1}}`:        `"store" is an object; it has to be a text`,
		`{"held":"yes"}`:           `"held" is a text; it has to be true or false`,
		`{"term":-5}`:              `"term" is the number -5; it has to be a whole number from 0 to 18446744073709551615`,
		`{"term":1.5}`:             `"term" is the number 1.5; it has to be a whole number from 0 to 18446744073709551615`,
		`[1]`:                      "the body is a list; it has to be a JSON object",
		`"s"`:                      "the body is a text; it has to be a JSON object",
		`7`:                        "the body is a number; it has to be a JSON object",
		`store=s`:                  "the body is not JSON: invalid character 's' looking for beginning of value",
		`{"store":"s"`:             "the body is not JSON: unexpected end of JSON input",
		``:                         "",
		`null`:                     "",
		`{"store":null,"other":7}`: "",
	} {
		var into struct {
			Store string `json:"store"`
			Held  bool   `json:"held"`
			Term  uint64 `json:"term"`
		}
		got := ""
		if err := (&request{msg: &nats.Msg{Data: []byte(body)}}).read(&into); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}
