//go:build unix

package integration

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/test/harness"
)

// wiretap hears what an emitter, proxies and the example subscriber say to each other.
type wiretap struct {
	mu        sync.Mutex
	sessions  map[string]string   // instance id that a reply subject was given to
	acks      map[string][]uint64 // by instance id
	forwarded []harness.Receipt   // requests to the subscriber
	accepted  []harness.Receipt   // as it wrote them
	counts    map[string]int      // its work, as it wrote it last
}

func (w *deliveryWorld) tap(subject, recordKey string) *wiretap {
	w.Helper()
	tap := &wiretap{sessions: map[string]string{}, acks: map[string][]uint64{}}
	listen := func(subject string, heard func(*nats.Msg)) {
		if _, err := w.NC.Subscribe(subject, func(m *nats.Msg) {
			tap.mu.Lock()
			defer tap.mu.Unlock()
			heard(m)
		}); err != nil {
			w.Fatal(err)
		}
	}
	listen("exesdb.proxy.deliver.>", func(m *nats.Msg) {
		tap.sessions[m.Reply] = strings.Split(m.Subject, ".")[3]
	})
	listen("_INBOX.>", func(m *nats.Msg) {
		rest, ok := strings.CutPrefix(string(m.Data), "+ACK ")
		if seq, err := strconv.ParseUint(rest, 10, 64); ok && err == nil {
			by := tap.sessions[m.Subject]
			tap.acks[by] = append(tap.acks[by], seq)
		}
	})
	number := func(text string) uint64 { n, _ := strconv.ParseUint(text, 10, 64); return n }
	listen(subject, func(m *nats.Msg) {
		tap.forwarded = append(tap.forwarded, harness.Receipt{Seq: number(m.Header.Get("Exesdb-Seq")), Incarnation: number(m.Header.Get("Exesdb-Incarnation"))})
	})
	listen("$KV.example_subscriber."+recordKey, func(m *nats.Msg) {
		var r struct {
			Places map[string]struct{ Incarnation, Seq uint64 }
			Counts map[string]int
		}
		if json.Unmarshal(m.Data, &r) == nil {
			for _, at := range r.Places { // one: the subject is one subscription's
				tap.accepted, tap.counts = append(tap.accepted, harness.Receipt{Seq: at.Seq, Incarnation: at.Incarnation}), r.Counts
			}
		}
	})
	if err := w.NC.Flush(); err != nil {
		w.Fatal(err)
	}
	return tap
}

// TestInstanceThatWakesUpLateIsFenced stops an instance that has events in hand, has another run take over,
// and wakes it up. Its subscriber is the example of one, which refuses what is of an older incarnation; the
// other sink is a stream.
func TestInstanceThatWakesUpLateIsFenced(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs")
	}
	t.Parallel()
	subproxy := builtSubproxy(t)
	example := harness.Program(t, "github.com/exesdb/subproxy/examples/subscriber")
	w := newDeliveryWorld(t, subproxy, 1)
	asked := &reader{name: "asked", typ: "by_stream", selector: "$all", sink: "request", wants: harness.Anything}
	stored := &reader{name: "stored", typ: "by_stream", selector: "$all", sink: "stream", wants: harness.Anything}
	w.readers = []*reader{asked, stored}
	tap := w.tap(asked.subject(), harness.Token(asked.subject()))
	subscriber := func() *harness.Run {
		return harness.Start(t, "subscriber", example, "--nats", w.URL, "--subject", asked.subject())
	}
	appended := uint64(0)
	more := func(n uint64) {
		t.Helper()
		for range n {
			w.append()
		}
		appended += n
	}
	acknowledged := func() {
		t.Helper()
		w.Eventually("everything is acknowledged", func() bool {
			a, _ := w.checkpoint(asked)
			b, _ := w.checkpoint(stored)
			return a == appended && b == appended
		})
	}
	run := func() (*harness.Run, string) {
		t.Helper()
		r := w.proxy("proxy-a")
		w.Eventually("it is connected", func() bool { return len(r.Log.Entries("connected to NATS")) > 0 })
		id := r.Log.Entries("connected to NATS")[0]["id"].(string)
		w.Eventually("it holds both", func() bool {
			a, _ := w.Record(asked.key())
			b, _ := w.Record(stored.key())
			return a.Owner.ID == id && b.Owner.ID == id
		})
		return r, id
	}

	e := w.emitter("emitter-1")
	w.Eventually("the store's stream", func() bool { return len(e.Log.Entries("emitter runs")) > 0 })
	zombie, zombieID := run()
	first := subscriber()
	more(5)
	acknowledged()

	// Nobody takes anything, so that it has the next ones in hand.
	first.MustSignal(syscall.SIGTERM)
	first.Exit()
	if err := w.JS.DeleteStream(t.Context(), targetStream); err != nil {
		t.Fatal(err)
	}
	before := appended
	more(5)
	w.Eventually("both are refused", func() bool {
		all, _ := w.statuses()
		refusing := 0
		for _, s := range all {
			if s.SinkState == "refusing" {
				refusing++
			}
		}
		return refusing == 2
	})
	zombie.MustSignal(syscall.SIGSTOP)
	w.Eventually("the stream is there again", func() bool {
		return w.try(func(ctx context.Context) error {
			_, err := w.JS.CreateStream(ctx, jetstream.StreamConfig{Name: targetStream, Subjects: []string{deliveryTarget + "stream.>"}, AllowDirect: true})
			return err
		})
	})
	_, id := run()
	second := subscriber()
	more(5)
	acknowledged()

	zombie.MustSignal(syscall.SIGCONT)
	w.Eventually("it finds that it is superseded", func() bool { return len(zombie.Log.Entries("another run of this instance's name took over")) > 0 })
	more(3)
	acknowledged()
	zombie.MustSignal(syscall.SIGTERM)
	if code := zombie.Exit(); code != 0 {
		t.Errorf("exit status of the superseded run %d", code)
	}
	more(3)
	acknowledged()
	w.stopAll()
	if err := w.NC.Flush(); err != nil {
		t.Fatal(err)
	}

	tap.mu.Lock()
	defer tap.mu.Unlock()
	incarnation := func(seq uint64) uint64 {
		if seq > before {
			return 2
		}
		return 1
	}
	total := 0
	for _, n := range tap.counts {
		total += n
	}
	if uint64(len(tap.accepted)) != appended || uint64(total) != appended {
		t.Errorf("the subscriber accepted %d and counted %d of %d", len(tap.accepted), total, appended)
	}
	for i, one := range tap.accepted {
		if seq := uint64(i) + 1; one.Seq != seq || one.Incarnation != incarnation(seq) {
			t.Errorf("it accepted %d of incarnation %d, want %d of %d", one.Seq, one.Incarnation, seq, incarnation(seq))
		}
	}
	for i, one := range w.receipts()[stored.name] { // since the stream is another
		if seq := before + uint64(i) + 1; one.Seq != seq || one.Incarnation != 2 {
			t.Errorf("the stream has %d of incarnation %d, want %d of 2", one.Seq, one.Incarnation, seq)
		}
	}
	if n := uint64(w.received(stored)); n != appended-before {
		t.Errorf("the stream has %d, want %d", n, appended-before)
	}
	late, newest := 0, uint64(0)
	for _, one := range tap.forwarded {
		if newest = max(newest, one.Incarnation); one.Incarnation < newest {
			late++
		}
	}
	t.Logf("the superseded run forwarded %d requests late; the subscriber refused %d; it acknowledged %v, the next run %v",
		late, strings.Count(second.Log.String(), "superseded"), tap.acks[zombieID], tap.acks[id])
	if n := w.logged("an event was refused and is parked"); n > 0 {
		t.Errorf("%d events are parked", n)
	}
	for _, owner := range []string{zombieID, id} {
		if len(tap.acks[owner]) == 0 {
			t.Errorf("no acknowledgement of %s was heard", owner)
		}
	}
}
