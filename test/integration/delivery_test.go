package integration

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/service"
	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/test/harness"
)

// deliveryExamples are the contract's examples that TestContractExamplesOfDelivery holds to the code.
var deliveryExamples = []string{"progress", "lease", "checkpoint"}

// emit runs an emitter for the configuration's stores.
func (w *world) emit(c *config.Config) (stop func()) {
	w.Helper()
	log := &locked{}
	w.Cleanup(func() {
		if w.Failed() {
			w.Logf("log of the emitter:\n%s", log.tail(8000))
		}
	})
	e, err := service.StartEmitter(context.Background(), service.EmitterOptions{Config: c, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		w.Fatal(err)
	}
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
		defer cancel()
		if err := e.Stop(ctx); err != nil {
			w.Errorf("stop the emitter: %v", err)
		}
	}
	w.Cleanup(stop)
	return stop
}

func TestContractExamplesOfDelivery(t *testing.T) {
	t.Parallel()
	page := examples(t)
	w := newWorld(t)
	c := quiet(t, w.URL, store("greenhouse_tycoon",
		config.Subscription{Name: "audit", Type: "by_stream", Selector: "$all", Forward: &config.Forward{Sink: "request", Subject: "app.audit", Timeout: harness.Patience, MaxDeliver: 2}}))
	w.emit(c)
	w.start(c)
	requests, err := w.NC.SubscribeSync("app.audit")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.Publish("exesdb.events.greenhouse_tycoon.greenhouse-1.initialized=3Av1", `{"area":12}`)
	}
	first, err := requests.NextMsg(harness.Patience)
	if err != nil {
		t.Fatal(err)
	}
	// What is forwarded is a CloudEvent with its place in the store.
	for header, value := range map[string]string{
		"ce-specversion": "1.0", "ce-id": "greenhouse_tycoon/1", "ce-type": "initialized:v1", "ce-subject": "greenhouse-1",
		"ce-source": "exesdb/greenhouse_tycoon", event.SequenceHeader: "1", event.IncarnationHeader: "1",
		event.PrevHeader: "", event.TermHeader: "",
	} {
		if got := first.Header.Get(header); got != value {
			t.Errorf("%s: got %q, want %q", header, got, value)
		}
	}
	if string(first.Data) != `{"area":12}` {
		t.Errorf("data %s", first.Data)
	}
	w.Eventually("tell that it is behind", func() bool {
		return strings.Contains(string(w.Latest("exesdb.emitter.progress.greenhouse_tycoon")), `"behind":{"audit":`)
	})
	same(t, "progress", page["progress"], string(w.Latest("exesdb.emitter.progress.greenhouse_tycoon")))
	w.Eventually("have the lease name a message of the stream", func() bool {
		return strings.Contains(string(w.Latest("exesdb.cluster.state.leader.greenhouse_tycoon")), `"witness":"`)
	})
	same(t, "lease", page["lease"], string(w.Latest("exesdb.cluster.state.leader.greenhouse_tycoon")))

	// Refused as often as it may be, it is parked, and the next one comes.
	refuse := func(m *nats.Msg) {
		t.Helper()
		if err := m.Respond([]byte("-NAK no area")); err != nil {
			t.Fatal(err)
		}
	}
	refuse(first)
	again, err := requests.NextMsg(harness.Patience)
	if err != nil || again.Header.Get(event.SequenceHeader) != "1" {
		t.Fatalf("after a refusal: %v", err)
	}
	refuse(again)
	second, err := requests.NextMsg(harness.Patience)
	if err != nil || second.Header.Get(event.SequenceHeader) != "2" {
		t.Fatalf("after parking: %v", err)
	}
	if err := second.Respond(nil); err != nil {
		t.Fatal(err)
	}
	var point []byte
	w.Eventually("write the checkpoint", func() bool {
		kv, err := w.JS.KeyValue(t.Context(), "exesdb_checkpoints")
		if err != nil {
			return false
		}
		entry, err := kv.Get(t.Context(), "greenhouse_tycoon.by_stream.=24all.audit")
		if err != nil {
			return false
		}
		point = entry.Value()
		return strings.HasPrefix(string(point), `{"seq":2,`)
	})
	same(t, "checkpoint", page["checkpoint"], string(point))
	lot, err := w.JS.Stream(t.Context(), deadletter.Stream)
	if err != nil {
		t.Fatal(err)
	}
	parked, err := lot.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range []string{
		deadletter.ReasonHeader, deadletter.AttemptsHeader, deadletter.SinkHeader, deadletter.SubjectHeader, deadletter.AtHeader, "Nats-Msg-Id", event.SequenceHeader,
	} {
		if parked.Header.Get(header) == "" || !strings.Contains(readContract(t), "| `"+header+"` |") {
			t.Errorf("parked without %s, or the page does not name it: %v", header, parked.Header)
		}
	}
	if got := parked.Header.Get(deadletter.ReasonHeader); got != "no area" {
		t.Errorf("parked because %q", got)
	}
}
