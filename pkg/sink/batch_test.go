package sink

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/natsnode"
)

func newEvents(first, last uint64) (events []*Event) {
	for n := first; n <= last; n++ {
		events = append(events, newEvent(n, strconv.FormatUint(n, 10)))
	}
	return events
}

// holds tells whether the stream has exactly these events, in order.
func (w *world) holds(stream string, last uint64) {
	w.Helper()
	s, err := w.js.Stream(w.ctx, stream)
	if err != nil {
		w.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != last {
		w.Errorf("%d are stored, not %d", n, last)
	}
	for n := uint64(1); n <= last; n++ {
		if m, err := s.GetMsg(w.ctx, n); err != nil || string(m.Data) != strconv.FormatUint(n, 10) {
			w.Fatalf("%d: %+v, %v", n, m, err)
		}
	}
}

func TestBatchIsStoredOnceAndInOrder(t *testing.T) {
	for _, atomic := range []bool{true, false} {
		t.Run(fmt.Sprint("atomic ", atomic), func(t *testing.T) {
			w := start(t, nil)
			w.stream(jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out"}, AllowAtomicPublish: atomic})
			s := w.sink(Stream, "out").(Batcher)
			for _, batch := range [][]*Event{
				newEvents(1, 2*largestBatch+1), newEvents(1, 3), // all of them again: the acknowledgement was lost
				newEvents(2*largestBatch, 2*largestBatch+5), // some of them again
				newEvents(2*largestBatch+6, 2*largestBatch+6), nil,
			} {
				if n, err := s.DeliverBatch(w.ctx, batch); n != len(batch) || err != nil {
					t.Fatalf("%d of %d, %v", n, len(batch), err)
				}
			}
			w.holds("OUT", 2*largestBatch+6)
			if known := atomicBatches(s.(*sparingBatcher).batcher.(*streamSink).batches.Load()); known == batchesUnknown || (known == batchesAllowed) != atomic {
				t.Errorf("got %d", known)
			}
		})
	}
}

func TestBatchStopsAtTheEventThatIsRefused(t *testing.T) {
	for _, atomic := range []bool{true, false} {
		w := start(t, nil)
		w.stream(jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out"}, AllowAtomicPublish: atomic, MaxMsgSize: 1024})
		s := w.sink(Stream, "out").(Batcher)
		for size, header := range map[int]string{2048: "", 2 << 20: "", 1: "bad: header"} { // for the stream, the server, the client
			batch := newEvents(1, 5)
			batch[3].Message.Data = []byte(strings.Repeat("x", size))
			if header != "" {
				batch[3].Message.Header[header] = []string{"x"}
			}
			n, err := s.DeliverBatch(w.ctx, batch)
			if _, _, ok := refused(err); n != 3 || !ok {
				t.Errorf("atomic %v, %d bytes: %d accepted, %v", atomic, size, n, err)
			}
		}
		if n, err := s.DeliverBatch(w.ctx, newEvents(4, 8)); n != 5 || err != nil {
			t.Errorf("after it: %d, %v", n, err)
		}
		w.holds("OUT", 8)
	}
}

func TestBatchFollowsWhatBecomesOfTheStream(t *testing.T) {
	w := start(t, nil)
	cfg := jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out"}, AllowAtomicPublish: true, Storage: jetstream.MemoryStorage}
	s := w.sink(Stream, "out").(Batcher)
	if n, err := s.DeliverBatch(w.ctx, newEvents(1, 3)); n != 0 || !errors.Is(err, ErrNoStream) {
		t.Errorf("no stream: %d, %v", n, err)
	}
	w.stream(cfg)
	if n, err := s.DeliverBatch(w.ctx, newEvents(1, 3)); n != 3 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if err := w.js.DeleteStream(w.ctx, "OUT"); err != nil {
		t.Fatal(err)
	}
	if n, err := s.DeliverBatch(w.ctx, newEvents(4, 6)); n != 0 || !errors.Is(err, ErrNoStream) {
		t.Errorf("deleted: %d, %v", n, err)
	}
	cfg.AllowAtomicPublish = false
	w.stream(cfg)
	if n, err := s.DeliverBatch(w.ctx, newEvents(1, 6)); n != 6 || err != nil {
		t.Errorf("without batches: %d, %v", n, err)
	}
	w.holds("OUT", 6)
	ended, cancel := context.WithCancel(w.ctx)
	cancel()
	if n, err := s.DeliverBatch(ended, newEvents(7, 8)); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %d, %v", n, err)
	}
}

func TestWhoMayNotAskForBatchesDeliversOneByOneAndAsksSeldom(t *testing.T) {
	var asked atomic.Int32
	w := start(t, func(o *server.Options) {
		deny := &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.INFO.OUT"}}}
		o.Users = []*server.User{{Username: "subproxy", Password: "subproxy"}, {Username: "limited", Password: "limited", Permissions: deny}}
	})
	w.stream(jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out"}, AllowAtomicPublish: true})
	nc, err := nats.Connect(w.node.URL(), nats.UserInfo("limited", "limited"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			asked.Add(1)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(js, Config{Kind: Stream, Subject: "out"})
	if err != nil {
		t.Fatal(err)
	}
	for first := uint64(1); first < 1000; first += 100 {
		if n, err := s.(Batcher).DeliverBatch(w.ctx, newEvents(first, first+99)); n != 100 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	w.holds("OUT", 1000)
	if n := asked.Load(); n != 1 {
		t.Errorf("it asked %d times", n)
	}
}

func TestSubscriptionsShareASink(t *testing.T) {
	w := start(t, nil)
	w.stream(jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out"}, AllowAtomicPublish: true, Storage: jetstream.MemoryStorage})
	s := w.sink(Stream, "out").(Batcher)
	var both sync.WaitGroup
	for i := range 2 {
		both.Go(func() {
			events := newEvents(1, 10)
			for _, e := range events {
				e.Subscription = strconv.Itoa(i)
			}
			if n, err := s.DeliverBatch(w.ctx, events); n != 10 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
	both.Wait()
	if n := w.stored("OUT"); n != 20 {
		t.Errorf("%d are stored", n)
	}
}

// One by one against batches, and publish; run with -bench . -run ^$.
func BenchmarkDeliver(b *testing.B) {
	node, err := natsnode.Start(natsnode.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer node.Shutdown()
	nc, err := nats.Connect(node.URL())
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	cfg := jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out"}, AllowAtomicPublish: true, Storage: jetstream.MemoryStorage, MaxMsgs: 10_000}
	if _, err := js.CreateStream(b.Context(), cfg); err != nil {
		b.Fatal(err)
	}
	sequence := uint64(0)
	for _, kind := range []Kind{Publish, Stream} {
		s, err := New(js, Config{Kind: kind, Subject: map[Kind]string{Publish: "nobody", Stream: "out"}[kind]})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(string(kind), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sequence++
				if err := s.Deliver(b.Context(), newEvent(sequence, "data")); err != nil {
					b.Fatal(err)
				}
			}
		})
		if batcher, ok := s.(Batcher); ok {
			b.Run("batches of 100", func(b *testing.B) {
				for b.Loop() {
					batch := newEvents(sequence+1, sequence+100)
					sequence += 100
					if _, err := batcher.DeliverBatch(b.Context(), batch); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/event")
			})
		}
	}
}
