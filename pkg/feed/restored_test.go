package feed_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/feed"
)

// restored replaces a stream by a backup of it, and between the two does what is given. Its creation time
// is another then.
func restored(t testing.TB, js jetstream.JetStream, stream jetstream.Stream, between func()) jetstream.Stream {
	t.Helper()
	name := stream.CachedInfo().Config.Name
	backup, err := testbed.BackUp(t.Context(), js.Conn(), name)
	if err != nil {
		t.Fatal(err)
	}
	between()
	if err := js.DeleteStream(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := backup.Restore(t.Context(), js.Conn()); err != nil {
		t.Fatal(err)
	}
	again, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if again.CachedInfo().Created.Equal(stream.CachedInfo().Created) {
		t.Fatal("the restored stream has the creation time of the one before")
	}
	return again
}

func TestRestoredStreamIsFollowedOn(t *testing.T) {
	for _, mode := range []string{feed.ModeRepublish, feed.ModeOrdered} {
		t.Run(mode, func(t *testing.T) {
			js := single(t)
			cfg := eventsConfig()
			if mode == feed.ModeOrdered {
				cfg.RePublish = nil
			}
			stream := createStream(t, js, cfg)
			seen := make(chan []feed.Witness, 100)
			f, rec := run(t, js, feed.Config{StartSeq: 1, Seen: func(w []feed.Witness) { seen <- w }}.Polls(50*time.Millisecond))
			for _, d := range []string{"1", "2", "3"} {
				publish(t, js, "events.a", d)
			}
			want(t, rec, "1", "2", "3")
			for w := range seen {
				if w[len(w)-1].Sequence == 3 {
					break
				}
			}
			restored(t, js, stream, func() {})
			publish(t, js, "events.a", "4")
			want(t, rec, "1", "2", "3", "4")
			polls := f.Stats().Polls
			eventually(t, "another look", func() bool { return f.Stats().Polls > polls+1 })
			publish(t, js, "events.a", "5")
			want(t, rec, "1", "2", "3", "4", "5")
			if s := f.Stats(); s.Resets != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestOlderBackupResets(t *testing.T) {
	for name, more := range map[string]int{"shorter": 0, "longer": 5} {
		t.Run(name, func(t *testing.T) {
			js := single(t)
			stream := createStream(t, js, eventsConfig())
			for _, d := range []string{"1", "2", "3"} {
				publish(t, js, "events.a", d)
			}
			_, rec := run(t, js, feed.Config{StartSeq: 1}.Polls(50*time.Millisecond))
			want(t, rec, "1", "2", "3")
			expected := []string{"1", "2", "3"}
			restored(t, js, stream, func() {
				publish(t, js, "events.a", "lost")
				want(t, rec, "1", "2", "3", "lost")
			})
			for i := range more {
				expected = append(expected, fmt.Sprint("new", i))
				publish(t, js, "events.a", expected[len(expected)-1])
			}
			eventually(t, "reset", func() bool { return rec.wasReset(feed.ErrWentBack) })
			want(t, rec, expected...)
		})
	}
}

// requests counts what is asked of JetStream.
func requests(t testing.TB, js jetstream.JetStream) *atomic.Int64 {
	t.Helper()
	var n atomic.Int64
	if _, err := js.Conn().Subscribe("$JS.API.>", func(*nats.Msg) { n.Add(1) }); err != nil {
		t.Fatal(err)
	}
	return &n
}

// readAll reads n messages, by a reader or a stretch, a thousand at a time.
func readAll(t testing.TB, read func(from uint64) ([]feed.Message, error), n int) {
	t.Helper()
	next := uint64(1)
	for next <= uint64(n) {
		messages, err := read(next)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if m.Sequence != next || string(m.Data) != fmt.Sprint(next) {
				t.Fatalf("%d after %d", m.Sequence, next-1)
			}
			next++
		}
	}
}

func TestMirrorAndRestoredStreamAreReadPageByPage(t *testing.T) {
	const n = 5000
	js := single(t)
	stream := createStream(t, js, eventsConfig())
	for i := range n {
		if _, err := js.PublishAsync("events.a", fmt.Append(nil, i+1), jetstream.WithStallWait(patience)); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	mirror := createStream(t, js, jetstream.StreamConfig{
		Name: "MIRROR", Mirror: &jetstream.StreamSource{Name: "EVENTS"}, AllowDirect: true, RePublish: &jetstream.RePublish{Source: ">", Destination: "m.>"},
	})
	eventually(t, "the mirror has all", func() bool { info, err := mirror.Info(t.Context()); return err == nil && info.State.Msgs == n })
	streams := map[string]jetstream.Stream{"mirror": mirror, "restored": restored(t, js, stream, func() {})}
	asked := requests(t, js)
	for name, stream := range streams {
		r := reader(t, js, stream)
		read := map[string]func(from uint64) ([]feed.Message, error){
			"pages": func(from uint64) ([]feed.Message, error) { return r.Read(t.Context(), from, 1000, 4<<20) },
		}
		log := &said{}
		var stretch *feed.BulkReader
		read["consumer"] = func(from uint64) ([]feed.Message, error) {
			if from == 1 {
				stretch = r.BulkReader(log.log())
			}
			return stretch.Read(t.Context(), from, 1000, 4<<20)
		}
		for by, read := range read {
			least := int64(n)
			for try := 0; try < 10 && least >= 20; try++ { // a machine that is busy cuts pages short
				before := asked.Load()
				readAll(t, read, n)
				if err := js.Conn().Flush(); err != nil {
					t.Fatal(err)
				}
				least = min(least, asked.Load()-before)
			}
			if least >= 20 || strings.Contains(log.text(), "not answered by the stream") {
				t.Errorf("%s, %s: %d requests for %d messages, logged %q", name, by, least, n, log.text())
			}
		}
	}
}

// A replica that has not heard that the stream was deleted serves it still, and may be asked first.
func TestReaderBelievesOldMessagesThatTheLeaderHas(t *testing.T) {
	js := single(t)
	stream := createStream(t, js, eventsConfig())
	publish(t, js, "events.a", "1")
	publish(t, js, "events.a", "2")
	stream = restored(t, js, stream, func() {})
	publish(t, js, "events.a", "3")
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	behind, asked := gate(t, js, func(m *nats.Msg, from uint64) { message(m, "EVENTS", from, 0, info.Created.Add(-time.Hour)) })
	r := reader(t, behind, stream)
	var got []string
	for next := uint64(1); next <= 3; {
		messages, err := r.Read(t.Context(), next, 1000, 4<<20)
		if err != nil && strings.Contains(err.Error(), "answers missing") { // the page that begins with a lie has no end
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			got = append(got, string(m.Data))
			next = m.Sequence + 1
		}
	}
	if fmt.Sprint(got) != "[1 2 3]" || asked.Load() == 0 {
		t.Errorf("read %v, asked %d times", got, asked.Load())
	}
}

// Each server of a restored R3 may have another creation time of its own; a change of leader shows it.
func TestChangesOfLeaderOfARestoredStreamAreNoReset(t *testing.T) {
	servers := runCluster(t)
	js := connect(t, servers...)
	cfg := eventsConfig()
	cfg.Replicas = 3
	stream := createStream(t, js, cfg)
	for _, d := range []string{"1", "2", "3"} {
		publish(t, js, "events.a", d)
	}
	restored(t, js, stream, func() {})
	f, rec := run(t, js, feed.Config{StartSeq: 1}.Polls(50*time.Millisecond))
	want(t, rec, "1", "2", "3")
	led, expected := map[string]bool{}, []string{"1", "2", "3"}
	created := map[time.Time]bool{}
	for len(led) < len(servers) {
		info := stepDown(t, js, servers, "EVENTS", led)
		led[info.Cluster.Leader], created[info.Created] = true, true
		expected = append(expected, info.Cluster.Leader)
		eventually(t, "publish", func() bool {
			_, err := js.Publish(t.Context(), "events.a", []byte(info.Cluster.Leader))
			return err == nil
		})
		want(t, rec, expected...)
		polls := f.Stats().Polls
		eventually(t, "another look", func() bool { return f.Stats().Polls > polls+1 })
	}
	if s := f.Stats(); s.Resets != 0 {
		t.Errorf("%+v", s)
	}
	t.Logf("%d creation times", len(created))
}

// stepDown makes a server lead the stream that has not yet, and returns the info that it gives.
func stepDown(t testing.TB, js jetstream.JetStream, servers []*server.Server, stream string, led map[string]bool) (info *jetstream.StreamInfo) {
	t.Helper()
	eventually(t, "another leads", func() bool {
		s, err := js.Stream(t.Context(), stream)
		if err != nil || s.CachedInfo().Cluster == nil || s.CachedInfo().Cluster.Leader == "" {
			return false
		}
		info = s.CachedInfo()
		if !led[info.Cluster.Leader] {
			return true
		}
		for _, s := range servers {
			if !led[s.Name()] {
				body := fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, s.Name())
				_, _ = js.Conn().Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, body, time.Second)
				break
			}
		}
		time.Sleep(100 * time.Millisecond)
		return false
	})
	return info
}

func TestReaderReadsOnWhenDirectGetIsSwitchedOff(t *testing.T) {
	js := single(t)
	stream := createStream(t, js, eventsConfig())
	publish(t, js, "events.a", "1")
	r := reader(t, js, stream)
	cfg := stream.CachedInfo().Config
	cfg.AllowDirect = false
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	messages, err := r.Read(t.Context(), 1, 10, 1<<20)
	if err != nil || len(messages) != 1 || string(messages[0].Data) != "1" {
		t.Errorf("%d messages, %v", len(messages), err)
	}
}
