package feed_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/feed"
)

func TestRecreatedStreamResets(t *testing.T) {
	for _, mode := range []string{feed.ModeRepublish, feed.ModeOrdered} {
		t.Run(mode, func(t *testing.T) {
			js := single(t)
			cfg := eventsConfig()
			if mode == feed.ModeOrdered {
				cfg.RePublish = nil
			}
			createStream(t, js, cfg)
			for i := range 10 {
				publish(t, js, "events.a", fmt.Sprint("old", i))
			}
			f, rec := run(t, js, feed.Config{StartSeq: 1}.Polls(50*time.Millisecond))
			eventually(t, "level", rec.level(10))
			if got := f.Stats().Mode; got != mode {
				t.Fatalf("mode = %s", got)
			}
			if err := js.DeleteStream(t.Context(), "EVENTS"); err != nil {
				t.Fatal(err)
			}
			createStream(t, js, cfg)
			for i := range 12 {
				publish(t, js, "events.a", fmt.Sprint("new", i))
			}
			eventually(t, "reset", func() bool { return rec.wasReset(feed.ErrRecreated) })
			expected := make([]string, 12)
			for i := range expected {
				expected[i] = fmt.Sprint("new", i)
			}
			want(t, rec, expected...)
			eventually(t, "level after reset", func() bool { rec.mu.Lock(); defer rec.mu.Unlock(); return len(rec.levels) == 1 })
		})
	}
}

// Without polls, a live message of a lower sequence alone tells.
func TestLiveMessageOfRecreatedStreamResetsAtOnce(t *testing.T) {
	js := single(t)
	createStream(t, js, eventsConfig())
	f, rec := run(t, js, feed.Config{StartSeq: 1}.Polls(never))
	eventually(t, "level", rec.level(0))
	eventually(t, "second look", func() bool { return f.Stats().Polls >= 2 })
	publish(t, js, "events.a", "old1")
	publish(t, js, "events.a", "old2")
	want(t, rec, "old1", "old2")
	if err := js.DeleteStream(t.Context(), "EVENTS"); err != nil {
		t.Fatal(err)
	}
	createStream(t, js, eventsConfig())
	publish(t, js, "events.a", "new")
	eventually(t, "reset", func() bool { return rec.wasReset(feed.ErrRecreated) })
	want(t, rec, "new")
}

func TestStreamThatAppearsLaterIsFollowedFromItsFirst(t *testing.T) {
	for _, start := range []uint64{0, 1} {
		t.Run(fmt.Sprint("start ", start), func(t *testing.T) {
			js := single(t)
			f, rec := run(t, js, feed.Config{StartSeq: start}.Polls(100*time.Millisecond))
			// The feed must have found the stream missing, or "only what comes after the start" means
			// something else.
			info, err := js.Conn().SubscribeSync("$JS.API.STREAM.INFO.EVENTS")
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if _, err := info.NextMsg(patience); err != nil {
					t.Fatal(err)
				}
			}
			createStream(t, js, eventsConfig())
			publish(t, js, "events.a", "1")
			want(t, rec, "1")
			if s := f.Stats(); s.Resets != 0 {
				t.Errorf("stats = %+v", s)
			}
		})
	}
}

// A backup of the server's files is put back: with fewer messages than the feed has seen, or with as many
// and more, but others. In both the stream's creation time is the old one.
func TestStreamRestoredFromBackupResets(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer than the rest together")
	}
	for name, since := range map[string][]string{"shorter": nil, "as long": {"b2"}, "longer": {"b2", "b3"}} {
		t.Run(name, func(t *testing.T) {
			dir, backup := t.TempDir(), t.TempDir()
			s := runServer(t, dir, -1)
			js := connect(t, s)
			createStream(t, js, eventsConfig())
			_, rec := run(t, js, feed.Config{StartSeq: 1})
			publish(t, js, "events.a", "1")
			s = restart(t, s, dir, func() {
				if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
			})
			eventually(t, "publish", func() bool { _, err := js.Publish(t.Context(), "events.a", []byte("a2")); return err == nil })
			want(t, rec, "1", "a2")
			restart(t, s, backup, func() {
				hidden := runServer(t, backup, -1)
				hjs := connect(t, hidden)
				for _, data := range since {
					publish(t, hjs, "events.a", data)
				}
				hjs.Conn().Close()
				stop(hidden)
			})
			eventually(t, "reset", func() bool { return rec.wasReset(feed.ErrWentBack) })
			want(t, rec, append([]string{"1"}, since...)...)
		})
	}
}

func restart(t testing.TB, s *server.Server, dir string, between func()) *server.Server {
	t.Helper()
	port := s.Addr().(*net.TCPAddr).Port
	stop(s)
	if between != nil {
		between()
	}
	return runServer(t, dir, port)
}

func TestServerRestartLosesNothing(t *testing.T) {
	for _, mode := range []string{feed.ModeRepublish, feed.ModeOrdered} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			s := runServer(t, dir, -1)
			js := connect(t, s)
			cfg := eventsConfig()
			if mode == feed.ModeOrdered {
				cfg.RePublish = nil
			}
			createStream(t, js, cfg)
			f, rec := run(t, js, feed.Config{StartSeq: 1})
			eventually(t, "level", rec.level(0))
			publish(t, js, "events.a", "before")
			want(t, rec, "before")
			s = restart(t, s, dir, nil)
			other := connect(t, s)
			publish(t, other, "events.a", "after 1")
			publish(t, other, "events.a", "after 2")
			want(t, rec, "before", "after 1", "after 2")
			if s := f.Stats(); s.Resets != 0 {
				t.Errorf("stats = %+v", s)
			}
		})
	}
}

func TestStreamRecreatedWhileDisconnectedResets(t *testing.T) {
	dir := t.TempDir()
	s := runServer(t, dir, -1)
	js := connect(t, s)
	createStream(t, js, eventsConfig())
	_, rec := run(t, js, feed.Config{StartSeq: 1}.Polls(never))
	eventually(t, "level", rec.level(0))
	publish(t, js, "events.a", "old")
	want(t, rec, "old")
	restart(t, s, dir, func() {
		// Elsewhere than where the feed looks: as the same server, on another port.
		hidden := runServer(t, dir, -1)
		hjs := connect(t, hidden)
		eventually(t, "old stream", func() bool { return hjs.DeleteStream(t.Context(), "EVENTS") == nil })
		createStream(t, hjs, eventsConfig())
		publish(t, hjs, "events.a", "new 1")
		publish(t, hjs, "events.a", "new 2")
		hjs.Conn().Close()
		stop(hidden)
	})
	eventually(t, "reset", func() bool { return rec.wasReset(feed.ErrRecreated) })
	want(t, rec, "new 1", "new 2")
}

func TestStreamLeaderShutDownWhilePublishingLosesNothing(t *testing.T) {
	servers := runCluster(t)
	cfg := eventsConfig()
	cfg.Replicas = 3
	stream := createStream(t, connect(t, servers...), cfg)
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(servers, func(s *server.Server) bool { return s.Name() == info.Cluster.Leader })
	leader, rest := servers[i], slices.Delete(slices.Clone(servers), i, i+1)
	_, through := run(t, connect(t, append([]*server.Server{leader}, rest...)...), feed.Config{StartSeq: 1})
	_, beside := run(t, connect(t, rest...), feed.Config{StartSeq: 1})
	eventually(t, "level", func() bool { return through.level(0)() && beside.level(0)() })

	pub := connect(t, rest...)
	expected := make([]string, 300)
	for i := range expected {
		if i == 100 {
			stop(leader)
		}
		expected[i] = fmt.Sprint(i)
		eventually(t, "publish", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := pub.Publish(ctx, "events.a", []byte(expected[i]), jetstream.WithMsgID(expected[i]))
			return err == nil
		})
	}
	want(t, through, expected...)
	want(t, beside, expected...)
}
