package control

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"go.uber.org/goleak"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*Server).internalSendLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.0.func1"))
}

// room is a server with a client on it.
type room struct {
	*Client
	node *natsnode.Node
}

func startRoom(t *testing.T) *room {
	t.Helper()
	n, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Shutdown)
	r := &room{node: n}
	r.Client = NewClient(r.connect(t))
	return r
}

func (r *room) connect(t *testing.T) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(r.node.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// answer adds an instance that answers a verb by hand. What it is asked is checked to be a request.
func (r *room) answer(t *testing.T, verb Verb, with func(Request, *nats.Msg) []*nats.Msg) {
	t.Helper()
	nc := r.connect(t)
	_, err := nc.Subscribe(Prefix+string(verb), func(m *nats.Msg) {
		var request Request
		if err := json.Unmarshal(m.Data, &request); err != nil {
			t.Errorf("asked %s: %v", m.Data, err)
		}
		for _, reply := range with(request, m) {
			if err := m.RespondMsg(reply); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func instance(id string) Instance {
	return Instance{Owner: registration.Owner{Name: "n" + id, ID: id}, Version: "1"}
}

func message(t *testing.T, payload any) *nats.Msg {
	t.Helper()
	data, err := json.Marshal(payload)
	if err != nil {
		t.Error(err)
	}
	return &nats.Msg{Data: data}
}

func refused(code, description, body string) *nats.Msg {
	return &nats.Msg{Header: nats.Header{micro.ErrorHeader: {description}, micro.ErrorCodeHeader: {code}}, Data: []byte(body)}
}

// has is what an instance answers to status: these proxies, in parts of two.
func has(t *testing.T, id string, h breaker.Health, names ...string) func(Request, *nats.Msg) []*nats.Msg {
	return func(Request, *nats.Msg) (messages []*nats.Msg) {
		parts := slices.Collect(slices.Chunk(names, 2))
		for i, part := range parts {
			a := StatusAnswer{Envelope: status.NewEnvelope(StatusAnswerType, time.Now()), Instance: instance(id), Part: i + 1, Parts: len(parts)}
			for _, name := range part {
				a.Proxies = append(a.Proxies, status.Status{Store: "s", Name: name, Health: h, Owner: instance(id).Owner, ReportedBy: instance(id).Owner})
			}
			messages = append(messages, message(t, a))
		}
		if len(parts) == 0 {
			messages = append(messages, message(t, StatusAnswer{Instance: instance(id), Part: 1, Parts: 1}))
		}
		return messages
	}
}

func names(statuses []status.Status) (names []string) {
	for i := range statuses {
		names = append(names, statuses[i].Name)
	}
	slices.Sort(names)
	return names
}

func TestStatusesAreGatheredFromEveryInstanceAndPart(t *testing.T) {
	r := startRoom(t)
	r.answer(t, GetStatus, has(t, "1", breaker.Healthy, "a", "b", "c", "d", "e"))
	r.answer(t, GetStatus, has(t, "2", breaker.Standby, "f"))
	r.answer(t, GetStatus, has(t, "3", breaker.Healthy))
	instances, statuses, err := r.Statuses(t.Context(), Request{})
	if err != nil || len(instances) != 3 || !slices.Equal(names(statuses), []string{"a", "b", "c", "d", "e", "f"}) {
		t.Errorf("got %v, %v, %v", instances, names(statuses), err)
	}
}

func TestRequestTellsStoreAndName(t *testing.T) {
	r := startRoom(t)
	r.answer(t, GetStatus, func(request Request, m *nats.Msg) []*nats.Msg {
		if want := `{"store":"s","name":"a.b"}`; string(m.Data) != want || request != (Request{Store: "s", Name: "a.b"}) {
			t.Errorf("asked %s", m.Data)
		}
		return has(t, "1", breaker.Healthy, request.Name)(request, m)
	})
	if _, statuses, err := r.Statuses(t.Context(), Request{Store: "s", Name: "a.b"}); err != nil || len(statuses) != 1 {
		t.Errorf("got %v, %v", statuses, err)
	}
}

func TestNobodyRunningIsAnEmptyStatus(t *testing.T) {
	r := startRoom(t)
	instances, statuses, err := r.Statuses(t.Context(), Request{})
	if err != nil || len(instances)+len(statuses) > 0 {
		t.Errorf("got %v, %v, %v", instances, statuses, err)
	}
}

func TestSomebodyWhoOnlyWatchesIsNoInstance(t *testing.T) {
	r := startRoom(t)
	r.FirstAnswerTimeout = 100 * time.Millisecond
	r.answer(t, ">", func(Request, *nats.Msg) []*nats.Msg { return nil })
	if instances, _, err := r.Statuses(t.Context(), Request{}); err != nil || len(instances) > 0 {
		t.Errorf("got %v, %v", instances, err)
	}
	if _, err := r.Request(t.Context(), Reregister, Request{}); !errors.Is(err, ErrProxyNotFound) {
		t.Errorf("acted with %v", err)
	}
}

func TestRefusalIsAnErrorWithItsCode(t *testing.T) {
	for _, c := range []struct {
		reply    *nats.Msg
		want     RefusedError
		text     string
		notFound bool
	}{
		{refused("400", "bad_request", `{"error":"no"}`), RefusedError{"400", "bad_request", "no"}, "bad_request: no", false},
		{refused("404", "proxy_not_found", `{"error":"x"}`), RefusedError{"404", "proxy_not_found", "x"}, "proxy_not_found: x", true},
		{refused("503", "unavailable", ""), RefusedError{"503", "unavailable", ""}, "unavailable", false},
		{refused("503", "unavailable", "?"), RefusedError{"503", "unavailable", ""}, "unavailable", false},
	} {
		r := startRoom(t)
		r.answer(t, GetStatus, func(Request, *nats.Msg) []*nats.Msg { return []*nats.Msg{c.reply} })
		_, _, err := r.Statuses(t.Context(), Request{})
		var refusal *RefusedError
		if !errors.As(err, &refusal) || *refusal != c.want || refusal.Error() != c.text || errors.Is(err, ErrProxyNotFound) != c.notFound {
			t.Errorf("got %#v", err)
		}
	}
}

func TestOthersAnswersAreKeptBesideARefusal(t *testing.T) {
	r := startRoom(t)
	r.answer(t, GetStatus, has(t, "1", breaker.Healthy, "a"))
	r.answer(t, GetStatus, func(Request, *nats.Msg) []*nats.Msg { return []*nats.Msg{refused("503", TemporaryFailure, "")} })
	_, statuses, err := r.Statuses(t.Context(), Request{})
	var refusal *RefusedError
	if !errors.As(err, &refusal) || len(statuses) != 1 {
		t.Errorf("got %v, %v", statuses, err)
	}
}

func TestAnswerThatCannotBeReadIsAnError(t *testing.T) {
	r := startRoom(t)
	r.answer(t, GetStatus, func(Request, *nats.Msg) []*nats.Msg { return []*nats.Msg{{Data: []byte("?")}} })
	if _, _, err := r.Statuses(t.Context(), Request{}); err == nil {
		t.Error("no error")
	}
}

func acted(t *testing.T, id string, n int) func(Request, *nats.Msg) []*nats.Msg {
	return func(Request, *nats.Msg) []*nats.Msg {
		return []*nats.Msg{message(t, ActionAnswer{Instance: instance(id), Affected: n, Verified: n})}
	}
}

func TestActionIsAnsweredByEachHolderHoweverSlow(t *testing.T) {
	r := startRoom(t)
	r.AnswerGap = 50 * time.Millisecond
	slow := make(chan struct{})
	time.AfterFunc(4*r.AnswerGap, func() { close(slow) })
	r.answer(t, GetStatus, has(t, "1", breaker.Healthy, "a"))
	r.answer(t, GetStatus, has(t, "2", breaker.Failed, "b"))
	r.answer(t, GetStatus, has(t, "3", breaker.Standby, "a")) // holds nothing, and stays silent
	r.answer(t, Reregister, acted(t, "1", 1))
	r.answer(t, Reregister, func(request Request, m *nats.Msg) []*nats.Msg {
		<-slow
		return acted(t, "2", 1)(request, m)
	})
	began := time.Now()
	answers, err := r.Request(t.Context(), Reregister, Request{Store: "s"})
	if err != nil || len(answers) != 2 {
		t.Errorf("got %+v, %v", answers, err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("waited %v although everybody who holds any had answered", took)
	}
}

func TestActionOnAnUnknownProxyIsRefused(t *testing.T) {
	r := startRoom(t)
	r.answer(t, GetStatus, has(t, "1", breaker.Healthy))
	r.answer(t, Restart, func(Request, *nats.Msg) []*nats.Msg {
		return []*nats.Msg{refused(CodeNotFound, ProxyNotFound, `{"error":"no subscription"}`)}
	})
	answers, err := r.Request(t.Context(), Restart, Request{Store: "s", Name: "none"})
	if !errors.Is(err, ErrProxyNotFound) || len(answers) > 0 {
		t.Errorf("got %v, %v", answers, err)
	}
}

func TestActionWithNobodyRunningFindsNoProxy(t *testing.T) {
	r := startRoom(t)
	if answers, err := r.Request(t.Context(), Restart, Request{Store: "s", Name: "a"}); !errors.Is(err, ErrProxyNotFound) || len(answers) > 0 {
		t.Errorf("got %v, %v", answers, err)
	}
}

func TestCancelledContextEndsAsking(t *testing.T) {
	r := startRoom(t)
	r.FirstAnswerTimeout = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	r.answer(t, GetStatus, func(Request, *nats.Msg) []*nats.Msg { cancel(); return nil })
	if _, _, err := r.Statuses(ctx, Request{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
