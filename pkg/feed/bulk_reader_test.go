package feed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/feed"
)

// said is what is logged.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *said) log() *slog.Logger { return slog.New(slog.NewTextHandler(s, nil)) }

// page is how many messages these tests read at once.
const page = 100

// fill publishes n messages, and deletes every seventh.
func fill(t testing.TB, js jetstream.JetStream, stream jetstream.Stream, n int) {
	t.Helper()
	for i := range n {
		m := nats.NewMsg("events.a")
		m.Header.Set("number", fmt.Sprint(i+1))
		m.Data = fmt.Append(nil, i+1)
		if _, err := js.PublishMsgAsync(m); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(patience):
		t.Fatal("not stored")
	}
	for seq := 7; seq < n; seq += 7 {
		if err := stream.DeleteMsg(t.Context(), uint64(seq)); err != nil {
			t.Fatal(err)
		}
	}
}

// stretched reads a stretch from a sequence to the one given, and fails unless it shows each message that
// is there once.
func stretched(t testing.TB, s *feed.BulkReader, from, to uint64, before func(seq uint64)) {
	t.Helper()
	last := from - 1
	for last < to {
		before(last)
		messages, err := s.Read(t.Context(), last+1, page, 1<<20)
		if err != nil {
			if errors.Is(err, feed.ErrNothing) {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond) // of a replica that has just lost its leader
			continue
		}
		for _, m := range messages {
			want := last + 1
			for want%7 == 0 && want < to {
				want++
			}
			if m.Sequence != want || string(m.Data) != fmt.Sprint(want) || m.Header.Get("number") != fmt.Sprint(want) || m.Subject != "events.a" || m.Time.IsZero() {
				t.Fatalf("%d: got %+v", want, m)
			}
			last = m.Sequence
		}
	}
}

func consumers(t testing.TB, stream jetstream.Stream) (names []string) {
	t.Helper()
	list := stream.ConsumerNames(t.Context())
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

func reader(t testing.TB, js jetstream.JetStream, stream jetstream.Stream) *feed.Reader {
	t.Helper()
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return feed.NewReader(js, info)
}

func TestBulkReaderIsReadByAConsumerThatEndsWithIt(t *testing.T) {
	js := single(t)
	stream := createStream(t, js, eventsConfig())
	const n = 1001
	fill(t, js, stream, n)
	log := &said{}
	most := 0
	stretched(t, reader(t, js, stream).BulkReader(log.log()), 3, n, func(uint64) { most = max(most, len(consumers(t, stream))) })
	if most != 1 || log.text() != "" {
		t.Errorf("%d consumers; logged %q", most, log.text())
	}
	eventually(t, "no consumer", func() bool { return len(consumers(t, stream)) == 0 })

	// One that is given up before its end.
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := reader(t, js, stream).BulkReader(log.log()).Read(ctx, 1, page, 1<<20); err != nil || len(consumers(t, stream)) != 1 {
		t.Fatalf("%v, %d consumers", err, len(consumers(t, stream)))
	}
	cancel()
	eventually(t, "no consumer", func() bool { return len(consumers(t, stream)) == 0 })
}

func TestBulkReaderPagesAreBoundedInBytes(t *testing.T) {
	js := single(t)
	stream := createStream(t, js, eventsConfig())
	const n, size = 40, 10_000
	for range n {
		publish(t, js, "events.a", strings.Repeat("x", size))
	}
	log := &said{}
	s := reader(t, js, stream).BulkReader(log.log())
	for last := uint64(0); last < n; {
		messages, err := s.Read(t.Context(), last+1, page, 3*size+size/2)
		if err != nil || len(messages) > 4 || messages[0].Sequence != last+1 {
			t.Fatalf("after %d: %d messages, %v", last, len(messages), err)
		}
		last = messages[len(messages)-1].Sequence
	}
	if log.text() != "" {
		t.Errorf("logged %s", log.text())
	}
	// One message that is more than a page.
	messages, err := reader(t, js, stream).BulkReader(log.log()).Read(t.Context(), 5, page, size/2)
	if err != nil || messages[0].Sequence != 5 {
		t.Errorf("%d messages, %v", len(messages), err)
	}
}

func TestBulkReadersHaveFourConsumersAtMost(t *testing.T) {
	js := single(t)
	stream := createStream(t, js, eventsConfig())
	fill(t, js, stream, 1001)
	r, log := reader(t, js, stream), &said{}
	for range 10 {
		s := r.BulkReader(log.log())
		if messages, err := s.Read(t.Context(), 1, page, 1<<20); err != nil || len(messages) != page {
			t.Fatalf("%d messages, %v", len(messages), err)
		}
	}
	if n := len(consumers(t, stream)); n != 4 || log.text() != "" {
		t.Errorf("%d consumers; logged %q", n, log.text())
	}
}

func TestBulkReaderIsReadWithoutAConsumerThatIsRefused(t *testing.T) {
	const n = 1001
	for name, refuse := range map[string]func(*server.Options, *jetstream.StreamConfig){
		"too many": func(_ *server.Options, c *jetstream.StreamConfig) { c.MaxConsumers = 1 },
		"not permitted": func(o *server.Options, _ *jetstream.StreamConfig) {
			o.Users = []*server.User{{Username: "another", Password: "p"}, {Username: "reader", Password: "p", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Deny: []string{"$JS.API.CONSUMER.CREATE.>"}},
			}}}
		},
		"not kept": func(_ *server.Options, c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy },
	} {
		t.Run(name, func(t *testing.T) {
			opts, cfg := &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true}, eventsConfig()
			refuse(opts, &cfg)
			s := startServer(t, opts)
			js := dial(t, s.ClientURL(), nats.UserInfo("another", "p"))
			stream := createStream(t, js, cfg)
			if _, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "another", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
				t.Fatal(err)
			}
			fill(t, js, stream, n)
			r, log := reader(t, dial(t, s.ClientURL(), nats.UserInfo("reader", "p")), stream), &said{}
			for range 3 { // only the first tries
				stretched(t, r.BulkReader(log.log()), 1, n, func(uint64) {
					if all := consumers(t, stream); !slices.Equal(all, []string{"another"}) {
						t.Fatal(all)
					}
				})
			}
			if tries := strings.Count(log.text(), "by direct get"); tries > 1 || (tries == 1) == (name == "not kept") {
				t.Errorf("logged %s", log.text())
			}
		})
	}
}

func TestBulkReaderGoesOnAfterItsConsumerIsDeleted(t *testing.T) {
	js := single(t)
	stream := createStream(t, js, eventsConfig())
	const n = 2001
	fill(t, js, stream, n)
	log := &said{}
	deleted := false
	stretched(t, reader(t, js, stream).BulkReader(log.log()), 1, n, func(seq uint64) {
		if seq > n/2 && !deleted {
			deleted = true
			for _, name := range consumers(t, stream) {
				if err := stream.DeleteConsumer(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	if !deleted || !strings.Contains(log.text(), "by direct get") {
		t.Errorf("deleted %t; logged %q", deleted, log.text())
	}
}

func TestBulkReaderGoesOnAfterTheNodeOfItsConsumerIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	nodes := runNodes(t)
	js := connectNodes(t, nodes...)
	cfg := eventsConfig()
	cfg.Replicas = 3
	stream := createStream(t, js, cfg)
	const n = 3001
	fill(t, js, stream, n)
	log := &said{}

	// The reader is connected to a node that stays, wherever the consumer is placed. A reader that was once
	// refused one in time makes none for a minute, so each attempt has its own.
	var victim *node
	var s *feed.BulkReader
	var at []time.Time
	eventually(t, "a consumer on another node than the reader's", func() bool {
		ctx, cancel := context.WithCancel(t.Context())
		s = reader(t, js, stream).BulkReader(log.log())
		if _, err := s.Read(ctx, 1, page, 1<<20); err != nil {
			t.Fatal(err)
		}
		for _, name := range consumers(t, stream) {
			c, err := stream.Consumer(t.Context(), name)
			if err != nil {
				continue // of the attempt before, which has ended
			}
			if host := c.CachedInfo().Cluster.Leader; host != js.Conn().ConnectedServerName() {
				victim = nodes[slices.IndexFunc(nodes, func(n *node) bool { return n.name == host })]
				t.Cleanup(cancel)
				return true
			}
		}
		cancel()
		return false
	})
	stretched(t, s, page+page/7+3, n, func(seq uint64) {
		if seq > n/3 && victim != nil {
			victim.kill()
			victim = nil
		}
		at = append(at, time.Now())
	})
	if pause := longestPause(at); pause > 3*time.Second || !strings.Contains(log.text(), "by direct get") {
		t.Errorf("stood for %s; logged %q", pause, log.text())
	} else {
		t.Logf("stood for %s", pause)
	}
}
