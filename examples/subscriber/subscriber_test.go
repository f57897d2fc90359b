package main

import (
	"context"
	"encoding/json"
	"maps"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/exesdb/subproxy/internal/natsnode"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRules(t *testing.T) {
	type is struct {
		incarnation, seq string
		answer           string
		counted          int // in all
	}
	var r record
	for _, e := range []is{
		{"1", "4", accepted, 1},
		{"1", "7", accepted, 2},
		{"1", "7", accepted, 2},            // the acknowledgement was lost
		{"2", "7", accepted, 2},            // the next one begins with what is not acknowledged
		{"1", "9", "-ERR superseded 2", 2}, // and the one before wakes up
		{"2", "9", accepted, 3},
		{"1", "7", "-ERR superseded 2", 3}, // a repetition as well
		{"", "5", accepted, 4},             // replayed
		{"2", "10", accepted, 5},
		{"5", "12", accepted, 6},
		{"", "", accepted, 7},
		{"x", "13", `-ERR strconv.ParseUint: parsing "x": invalid syntax`, 7},
		{"5", "", `-ERR strconv.ParseUint: parsing "": invalid syntax`, 7},
	} {
		before := record{maps.Clone(r.Places), maps.Clone(r.Counts)}
		answer, changed := r.take(header(e.incarnation, e.seq))
		if n := r.Counts["t"]; answer != e.answer || n != e.counted {
			t.Errorf("%s of incarnation %s: %s, and %d are counted; want %s, %d", e.seq, e.incarnation, answer, n, e.answer, e.counted)
		}
		if same := maps.Equal(before.Places, r.Places) && maps.Equal(before.Counts, r.Counts); same == changed {
			t.Errorf("%s of incarnation %s: it says changed: %v, from %+v to %+v", e.seq, e.incarnation, changed, before, r)
		}
	}
	if r.Places[""] != (place{5, 12}) {
		t.Errorf("it is at %+v", r)
	}
	// Another selector is another subscription, which begins anew on the same subject.
	for _, e := range []struct {
		subscription, incarnation, seq, answer string
		counted                                int
	}{
		{"s.by_event_type.paid.n", "1", "3", accepted, 8}, {"s.by_event_type.paid.n", "1", "3", accepted, 8}, {"s.by_stream.=24all.n", "1", "3", accepted, 9},
		{"s.by_event_type.paid.n", "2", "4", accepted, 10}, {"s.by_stream.=24all.n", "1", "4", accepted, 11}, {"s.by_event_type.paid.n", "1", "5", "-ERR superseded 2", 11},
	} {
		h := header(e.incarnation, e.seq)
		h.Set("Exesdb-Subscription", e.subscription)
		if answer, _ := r.take(h); answer != e.answer || r.Counts["t"] != e.counted {
			t.Errorf("%s of %s: %s, and %d are counted", e.seq, e.subscription, answer, r.Counts["t"])
		}
	}
	if answer, changed := r.take(nats.Header{"Exesdb-Seq": {"13"}, "Exesdb-Incarnation": {"5"}}); answer != "+TERM no ce-type" || changed {
		t.Errorf("no event: %s", answer)
	}
}

func header(incarnation, seq string) nats.Header {
	h := nats.Header{"ce-type": {"t"}}
	if incarnation != "" {
		h.Set("Exesdb-Incarnation", incarnation)
	}
	if seq != "" {
		h.Set("Exesdb-Seq", seq)
	}
	return h
}

// TestSubscribersShareASubject has two, which take turns and are restarted.
func TestSubscribersShareASubject(t *testing.T) {
	node, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Shutdown)
	connect := func() *nats.Conn {
		nc, err := nats.Connect(node.URL())
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
	run := func() (stop func()) {
		nc := connect()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- Run(ctx, nc, "billing.in") }()
		return func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			nc.Close()
		}
	}
	nc := connect()
	defer nc.Close()
	send := func(incarnation, seq int) string {
		m := nats.NewMsg("billing.in")
		m.Header = header(strconv.Itoa(incarnation), strconv.Itoa(seq))
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if reply, err := nc.RequestMsg(m, 5*time.Second); err == nil { // until one listens
				return string(reply.Data)
			}
		}
		t.Fatalf("event %d is not answered", seq)
		return ""
	}
	for round := range 2 {
		stops := []func(){run(), run()}
		for i := range 50 {
			seq := 50*round + i + 1
			for range 2 {
				if answer := send(round+1, seq); answer != accepted {
					t.Errorf("event %d: %s", seq, answer)
				}
			}
		}
		for _, stop := range stops {
			stop()
		}
	}
	stop := run()
	if answer := send(1, 101); answer != "-ERR superseded 2" {
		t.Errorf("after a restart an older incarnation is answered %s", answer)
	}
	stop()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	var r record
	entry, err := kv.Get(t.Context(), "billing=2Ein")
	if err != nil || json.Unmarshal(entry.Value(), &r) != nil || r.Counts["t"] != 100 || r.Places[""] != (place{2, 100}) {
		t.Errorf("%+v, %v", r, err)
	}
}
