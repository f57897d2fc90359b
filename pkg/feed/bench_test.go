package feed_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/feed"
)

// counter is a Handler that costs nothing.
type counter struct {
	n     atomic.Uint64
	level chan uint64
	stamp chan time.Time
}

func (c *counter) Message(feed.Message) {
	c.n.Add(1)
	if c.stamp != nil {
		c.stamp <- time.Now()
	}
}
func (c *counter) Level(seq uint64) { c.level <- seq }
func (c *counter) Reset(error)      {}

// burst republishes b.N messages by hand, so that what is measured is the way from subject to handler and
// not JetStream.
func burst(b *testing.B, nc *nats.Conn, n uint64, done func() uint64) {
	m := nats.NewMsg("copy.events.a")
	m.Data = make([]byte, 200)
	m.Header["Nats-Stream"] = []string{"EVENTS"}
	m.Header["Nats-Subject"] = []string{"events.a"}
	m.Header["Nats-Time-Stamp"] = []string{time.Now().UTC().Format(time.RFC3339Nano)}
	m.Header["Nats-Last-Sequence"] = []string{"0"}
	const window = 10_000
	for seq := uint64(1); seq <= n; seq++ {
		m.Header["Nats-Sequence"] = []string{itoa(seq)}
		if err := nc.PublishMsg(m); err != nil {
			b.Fatal(err)
		}
		for seq%1000 == 0 && seq-done() > window {
			time.Sleep(20 * time.Microsecond)
		}
	}
	for done() < n {
		time.Sleep(20 * time.Microsecond)
	}
}

func itoa(n uint64) string {
	var buf [20]byte
	i := len(buf)
	for ; n > 0 || i == len(buf); n /= 10 {
		i--
		buf[i] = byte('0' + n%10)
	}
	return string(buf[i:])
}

func BenchmarkLive(b *testing.B) {
	b.Run("feed", func(b *testing.B) {
		s := runServer(b, b.TempDir(), -1)
		js := connect(b, s)
		createStream(b, js, eventsConfig())
		c := &counter{level: make(chan uint64, 1)}
		f := start(b, js, feed.Config{Stream: "EVENTS", StartSeq: 1, Handler: c}.Polls(never))
		<-c.level
		for f.Stats().Polls < 2 {
			time.Sleep(time.Millisecond)
		}
		pub := connect(b, s).Conn()
		b.ReportAllocs()
		b.ResetTimer()
		burst(b, pub, uint64(b.N), c.n.Load)
	})
	b.Run("raw subscription", func(b *testing.B) {
		s := runServer(b, b.TempDir(), -1)
		sub, err := connect(b, s).Conn().SubscribeSync("copy.>")
		if err != nil {
			b.Fatal(err)
		}
		if err := sub.SetPendingLimits(-1, -1); err != nil {
			b.Fatal(err)
		}
		var n atomic.Uint64
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				if _, err := sub.NextMsgWithContext(b.Context()); err != nil {
					return
				}
				n.Add(1)
			}
		}()
		b.Cleanup(func() { <-done })
		pub := connect(b, s).Conn()
		b.ReportAllocs()
		b.ResetTimer()
		burst(b, pub, uint64(b.N), n.Load)
	})
}

// BenchmarkSnapshot reads 100,000 stored messages of 200 bytes.
func BenchmarkSnapshot(b *testing.B) {
	const stored = 100_000
	js := connect(b, runServer(b, b.TempDir(), -1))
	createStream(b, js, eventsConfig())
	body := make([]byte, 200)
	for range stored / 1000 {
		for range 1000 {
			if _, err := js.PublishAsync("events.a", body); err != nil {
				b.Fatal(err)
			}
		}
		<-js.PublishAsyncComplete()
	}
	b.ResetTimer()
	for range b.N {
		c := &counter{level: make(chan uint64, 1)}
		start(b, js, feed.Config{Stream: "EVENTS", StartSeq: 1, Handler: c})
		<-c.level
	}
	b.ReportMetric(float64(stored)*float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkLatency is the time from a JetStream publish to the handler, one message at a time.
func BenchmarkLatency(b *testing.B) {
	s := runServer(b, b.TempDir(), -1)
	js, pub := connect(b, s), connect(b, s)
	createStream(b, js, eventsConfig())
	c := &counter{level: make(chan uint64, 1), stamp: make(chan time.Time, 1)}
	start(b, js, feed.Config{Stream: "EVENTS", Handler: c})
	<-c.level
	var seen, acked time.Duration
	b.ResetTimer()
	for range b.N {
		began := time.Now()
		publish(b, pub, "events.a", "x")
		acked += time.Since(began)
		seen += (<-c.stamp).Sub(began)
	}
	b.ReportMetric(float64(seen.Microseconds())/float64(b.N), "µs-to-handler")
	b.ReportMetric(float64(acked.Microseconds())/float64(b.N), "µs-to-ack")
}
