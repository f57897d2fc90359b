package sink

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

func TestUnfitStreamIsJudgedAtTheStart(t *testing.T) {
	w := start(t, nil)
	o := Outlet{JetStream: w.js, Publisher: NewPublisher(w.nc)}
	for name, c := range map[string]struct {
		config jetstream.StreamConfig
		seal   bool
		cure   string // empty: it is fit
	}{
		"FIT":    {config: jetstream.StreamConfig{Duplicates: time.Second}},
		"FULL":   {config: jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxMsgs: 1}}, // there may be room again
		"NOACK":  {config: jetstream.StreamConfig{NoAck: true}, cure: "nats stream edit NOACK --ack"},
		"SEALED": {seal: true, cure: "change forward.subject"},
		"COUNTS": {config: jetstream.StreamConfig{AllowMsgCounter: true, AllowDirect: true}, cure: "change forward.subject"},
		"FIRST":  {config: jetstream.StreamConfig{Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, MaxMsgsPerSubject: 1}, cure: "nats stream edit FIRST --no-discard-per-subject"},
	} {
		c.config.Name, c.config.Subjects = name, []string{"out." + name}
		w.stream(c.config)
		if c.seal {
			s, err := w.js.Stream(w.ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			sealed := s.CachedInfo().Config
			sealed.Sealed = true
			if _, err := w.js.UpdateStream(w.ctx, sealed); err != nil {
				t.Fatal(err)
			}
		}
		to := Config{Kind: Stream, Subject: "out." + name}
		target, err := o.Check(w.ctx, to)
		if c.cure == "" {
			if err != nil || target.Stream != name || target.Window != c.config.Duplicates && c.config.Duplicates > 0 {
				t.Errorf("%s: %+v, %v", name, target, err)
			}
			continue
		}
		if !errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), c.cure) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A stream that is changed while it is used is found out by the first event that it does not acknowledge,
// which it stores once.
func TestStreamThatBecomesUnfitIsToldAndNotFilled(t *testing.T) {
	w := start(t, nil)
	config := jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out"}, NoAck: true, Duplicates: 100 * time.Millisecond}
	w.stream(config)
	s, err := New(w.js, Config{Kind: Stream, Subject: "out", Timeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := s.Deliver(w.ctx, newEvent(1, "1")); !errors.Is(err, ErrUnfit) {
			t.Errorf("got %v", err)
		}
		time.Sleep(config.Duplicates) // it is forgotten
	}
	if n := w.stored("OUT"); n != 1 {
		t.Errorf("%d are stored of one event", n)
	}
	config.NoAck, config.Storage = false, jetstream.MemoryStorage
	if _, err := w.js.UpdateStream(w.ctx, config); err != nil {
		t.Fatal(err)
	}
	if err := s.Deliver(w.ctx, newEvent(2, "2")); err != nil {
		t.Errorf("mended: %v", err)
	}
}

func TestServerThatTakesSmallerBatchesIsLearntFrom(t *testing.T) {
	w := start(t, func(o *server.Options) { o.JetStreamLimits.MaxBatchSize = 100 })
	w.stream(jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out"}, AllowAtomicPublish: true})
	s := w.sink(Stream, "out").(Batcher)
	before := w.nc.Stats().OutMsgs
	for first := uint64(1); first < 1000; first += 250 {
		if n, err := s.DeliverBatch(w.ctx, newEvents(first, first+249)); n != 250 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	// One batch is sent for nothing, and some requests look at the stream.
	if sent := w.nc.Stats().OutMsgs - before - 1000; sent > 250+10 {
		t.Errorf("%d messages more than events were sent", sent)
	}
	w.holds("OUT", 1000)
	if most := s.(*sparingBatcher).batcher.(*streamSink).largest(); most != 100 {
		t.Errorf("it has learnt %d", most)
	}
	for refusal, want := range map[string]int32{"too large: 50": 50, "too large: 300": 100, "too large": 100, "": 100, "too large: 0": 100} {
		var s streamSink
		if s.learn(200, refusal); s.most.Load() != want {
			t.Errorf("%q: %d", refusal, s.most.Load())
		}
	}
}
