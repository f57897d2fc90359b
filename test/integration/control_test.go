package integration

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/exesdb/subproxy/test/harness"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

func TestControlAnswersStatusAndList(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 450
	i := w.start(quiet(t, w.URL, many("s", n), greenhouse))
	w.awaitVerified("s", n, 1)
	w.awaitVerified("greenhouse", 1, 1)
	for verb, kind := range map[string]string{"status": "io.exesdb.proxy.v1.status_response", "list": "io.exesdb.proxy.v1.list_response"} {
		for body, want := range map[string]int{
			"": n + 1, "{}": n + 1, `{"store":"s"}`: n, `{"store":"s","name":"s00007"}`: 1, `{"store":"greenhouse"}`: 1,
			`{"held":true}`: n + 1,
		} {
			answers := w.Ask(verb, body, func(a []harness.Answer) bool { return len(a) > 0 && len(a) == a[0].Parts })
			if parts := max((want+199)/200, 1); len(answers) != parts {
				t.Errorf("%s %s: %d parts, want %d", verb, body, len(answers), parts)
			}
			names := map[string]bool{}
			for part, a := range answers {
				if a.Type != kind || a.Part != part+1 || a.Instance.ID != i.Owner().ID || a.Code != "" {
					t.Errorf("%s %s: part %d is %s of %s, part %d, code %q", verb, body, part+1, a.Type, a.Instance.ID, a.Part, a.Code)
				}
				for _, s := range a.Proxies {
					names[s.Store+"/"+s.Name] = true
					if s.Health != "healthy" || s.Selector == "" {
						t.Errorf("%s %s: %+v", verb, body, s)
					}
				}
			}
			if len(names) != want {
				t.Errorf("%s %s: %d subscriptions, want %d", verb, body, len(names), want)
			}
		}
	}
}

func TestControlReregistersAndRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	i := w.start(quiet(t, w.URL, store("s", byType("a", "x"), byType("b", "x")), greenhouse))
	w.awaitVerified("s", 2, 1)
	w.awaitVerified("greenhouse", 1, 1)
	keys := []string{"s.by_event_type.x.a", "s.by_event_type.x.b", greenhouseKey}
	for body, affected := range map[string][]string{
		`{"store":"s","name":"a"}`: keys[:1], `{"store":"s"}`: keys[:2], "": keys,
	} {
		before := w.Records()
		a := w.AskOne("reregister", body)
		if a.Type != "io.exesdb.proxy.v1.action_response" || a.Affected != len(affected) || a.Verified != len(affected) || len(a.Proxies) != len(affected) {
			t.Errorf("reregister %s: %+v, want %d affected and verified", body, a, len(affected))
		}
		now := w.Records()
		for n, key := range keys {
			touched := now[key].Revision > before[key].Revision && now[key].Cause == "manual"
			if touched != (n < len(affected)) || now[key].Incarnation != before[key].Incarnation || now[key].DeliverSubject != before[key].DeliverSubject {
				t.Errorf("reregister %s: %s went from %+v to %+v", body, key, before[key], now[key])
			}
		}
	}
	before := w.Records()
	a := w.AskOne("restart", `{"store":"s","name":"a"}`)
	if a.Affected != 1 || a.Verified != 1 || len(a.Proxies) != 1 || !a.Proxies[0].Verified {
		t.Errorf("restart: %+v", a)
	}
	now := w.Records()
	was, is := before[keys[0]], now[keys[0]]
	if is.Incarnation != was.Incarnation+1 || is.DeliverSubject == was.DeliverSubject || is.Owner.ID != i.Owner().ID || is.Cause != "manual" {
		t.Errorf("restart made %+v of %+v", is, was)
	}
	if !strings.HasPrefix(is.DeliverSubject, "exesdb.proxy.deliver."+i.Owner().ID+".") || a.Proxies[0].Revision != is.Revision {
		t.Errorf("restart: deliver subject %s, revision %d in the answer, %d in the bucket", is.DeliverSubject, a.Proxies[0].Revision, is.Revision)
	}
	if now[keys[1]] != before[keys[1]] {
		t.Error("restarting one proxy touched another")
	}
}

func TestControlRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.settled(quiet(t, w.URL, greenhouse), greenhouseKey, greenhouseTokens)
	for _, request := range []struct{ verb, body, code, refusal string }{
		{"status", "not json", "400", "bad_request"},
		{"list", `["s"]`, "400", "bad_request"},
		{"status", `{"name":"initialized"}`, "400", "bad_request"},
		{"reregister", `{"name":"initialized"}`, "400", "bad_request"},
		{"status", `{"store":"greenhouse","name":"nobody"}`, "404", "proxy_not_found"},
		{"list", `{"store":"nobody"}`, "404", "proxy_not_found"},
		{"restart", "", "400", "bad_request"},
		{"restart", `{"store":"greenhouse"}`, "400", "bad_request"},
		{"restart", `{"store":"greenhouse","name":"nobody"}`, "404", "proxy_not_found"},
		{"reregister", `{"store":"greenhouse","name":"nobody"}`, "404", "proxy_not_found"},
		{"reregister", `{"store":"nobody"}`, "404", "proxy_not_found"},
	} {
		if a := w.AskOne(request.verb, request.body); a.Code != request.code || a.Refusal != request.refusal {
			t.Errorf("%s %s: %s %s, want %s %s", request.verb, request.body, a.Code, a.Refusal, request.code, request.refusal)
		}
	}
}

func TestInstanceThatDoesNotHoldAProxyIsSilent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := quiet(t, w.URL, greenhouse)
	a.Instance.Name = "host-a"
	b := quiet(t, w.URL, greenhouse)
	b.Instance.Name = "host-b"
	w.settled(a, greenhouseKey, greenhouseTokens)
	newer, _ := w.settled(b, greenhouseKey, greenhouseTokens)
	w.Eventually("the older to stand by", func() bool {
		standing := 0
		for _, one := range w.Ask("status", "", func(a []harness.Answer) bool { return len(a) == 2 }) {
			for _, s := range one.Proxies {
				if s.Health == "standby" {
					standing++
				}
			}
		}
		return standing == 1
	})
	inbox := w.NC.NewInbox()
	sub, err := w.NC.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"reregister", "restart"} {
		if err := w.NC.PublishRequest("exesdb.proxy.control."+verb, inbox, []byte(`{"store":"greenhouse","name":"initialized"}`)); err != nil {
			t.Fatal(err)
		}
		m, err := sub.NextMsg(harness.Patience)
		if err != nil {
			t.Fatal(err)
		}
		if a := harness.Decode[harness.Answer](t, m.Data); a.Instance.ID != newer.Owner().ID || a.Verified != 1 {
			t.Errorf("%s was answered by %s: %s", verb, a.Instance.Name, m.Data)
		}
	}
	// Each endpoint answers in turn: once both refused another request, both are through with those before.
	for _, verb := range []string{"reregister", "restart"} {
		w.Ask(verb, "not json", func(a []harness.Answer) bool { return len(a) == 2 })
	}
	if err := w.NC.Flush(); err != nil {
		t.Fatal(err)
	}
	if m, err := sub.NextMsg(time.Millisecond); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("a second answer: %v, %v", m, err)
	}
}

func TestControlIsAMicroService(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	i, _ := w.settled(quiet(t, w.URL, greenhouse), greenhouseKey, greenhouseTokens)
	ping, err := w.NC.Request("$SRV.PING.subproxy", nil, harness.Patience)
	if err != nil {
		t.Fatal(err)
	}
	if p := harness.Decode[micro.Ping](t, ping.Data); p.Name != "subproxy" || p.Version != "0.0.0" || p.Type != micro.PingResponseType {
		t.Errorf("ping: %+v", p)
	}
	info, err := w.NC.Request("$SRV.INFO.subproxy", nil, harness.Patience)
	if err != nil {
		t.Fatal(err)
	}
	var described micro.Info
	if err := json.Unmarshal(info.Data, &described); err != nil {
		t.Fatal(err)
	}
	subjects := map[string]bool{}
	for _, e := range described.Endpoints {
		subjects[e.Subject] = true
	}
	for _, verb := range []string{"list", "status", "restart", "reregister", "drain", "reset_term"} {
		if !subjects["exesdb.proxy.control."+verb] || len(subjects) != 6 {
			t.Errorf("endpoints %v, want the six verbs", subjects)
		}
	}
	if described.Metadata["instance_id"] != i.Owner().ID || described.Metadata["instance"] != i.Owner().Name {
		t.Errorf("metadata %v", described.Metadata)
	}
	if _, err := w.NC.Request("$SRV.STATS.subproxy", nil, harness.Patience); err != nil {
		t.Errorf("stats: %v", err)
	}
}
