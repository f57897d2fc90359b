package feed_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/feed"
)

// answer is one to a direct get that can't be trusted.
type answer func(req *nats.Msg, from uint64)

// gate returns a context whose requests pass through a gate, where every second direct get, the first too,
// is given an answer instead of being passed on. (No client may join the queue group of the replicas.)
func gate(t testing.TB, js jetstream.JetStream, give answer) (jetstream.JetStream, *atomic.Int64) {
	t.Helper()
	behind, err := jetstream.NewWithAPIPrefix(js.Conn(), "GATE.API")
	if err != nil {
		t.Fatal(err)
	}
	var gets, asked atomic.Int64
	_, err = js.Conn().Subscribe("GATE.API.>", func(m *nats.Msg) {
		if strings.HasPrefix(m.Subject, "GATE.API.DIRECT.GET.") && gets.Add(1)%2 == 1 {
			asked.Add(1)
			var req struct {
				Seq uint64 `json:"seq"`
			}
			if err := json.Unmarshal(m.Data, &req); err != nil {
				t.Error(err)
			}
			give(m, req.Seq)
			return
		}
		if err := js.Conn().PublishRequest("$JS"+strings.TrimPrefix(m.Subject, "GATE"), m.Reply, m.Data); err != nil && !js.Conn().IsClosed() {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return behind, &asked
}

func reply(req *nats.Msg, status string, headers ...string) {
	m := nats.NewMsg(req.Reply)
	if status != "" {
		m.Header.Set("Status", status)
	}
	for i := 0; i < len(headers); i += 2 {
		m.Header[headers[i]] = []string{headers[i+1]}
	}
	if status == "" {
		m.Data = []byte("wrong")
	}
	_ = req.RespondMsg(m)
}

func message(req *nats.Msg, stream string, seq, previous uint64, stored time.Time) {
	reply(req, "", "Nats-Stream", stream, "Nats-Subject", "events.a", "Nats-Sequence", strconv.FormatUint(seq, 10),
		"Nats-Time-Stamp", stored.UTC().Format(time.RFC3339Nano), "Nats-Num-Pending", "3", "Nats-Last-Sequence", strconv.FormatUint(previous, 10))
}

func TestReplicaThatCannotBeTrustedDoesNoHarm(t *testing.T) {
	for name, give := range map[string]answer{
		"has applied nothing yet":           func(m *nats.Msg, _ uint64) { reply(m, "404") },
		"dies before it answers":            func(*nats.Msg, uint64) {},
		"answers, but the first is lost":    func(m *nats.Msg, from uint64) { message(m, "EVENTS", from+2, from, time.Now()) },
		"ends the batch, all else is lost":  func(m *nats.Msg, from uint64) { reply(m, "204", "Nats-Num-Pending", "0", "Nats-Last-Sequence", "9") },
		"serves the stream deleted before":  func(m *nats.Msg, from uint64) { message(m, "EVENTS", from, 0, time.Now().Add(-time.Hour)) },
		"is a filtered mirror":              func(m *nats.Msg, from uint64) { message(m, "MIRROR", from+2, 0, time.Now()) },
		"says that it has more, gives none": func(m *nats.Msg, _ uint64) { reply(m, "204", "Nats-Num-Pending", "5", "Nats-Last-Sequence", "0") },
		"refuses":                           func(m *nats.Msg, _ uint64) { reply(m, "408") },
	} {
		t.Run(name, func(t *testing.T) {
			js := single(t)
			createStream(t, js, eventsConfig())
			behind, asked := gate(t, js, give)
			f, rec := unpolled(t, behind)
			var expected []string
			for i := range 4 {
				deaf(t, js, func() {
					for j := range 3 {
						expected = append(expected, fmt.Sprint(i, j))
						publish(t, js, "events.a", expected[len(expected)-1])
					}
				})
				expected = append(expected, fmt.Sprint(i))
				publish(t, js, "events.a", expected[len(expected)-1])
			}
			want(t, rec, expected...)
			eventually(t, "counts", func() bool { return f.Stats().Received == uint64(len(expected)) })
			if asked.Load() == 0 {
				t.Error("it was never asked")
			}
		})
	}
}

// A message gone from the end must not keep an ordered feed from being level.
func TestOrderedFeedIsLevelThoughTheEndIsDeleted(t *testing.T) {
	js := single(t)
	cfg := eventsConfig()
	cfg.RePublish = nil
	stream := createStream(t, js, cfg)
	for _, d := range []string{"1", "2", "3"} {
		publish(t, js, "events.a", d)
	}
	if err := stream.DeleteMsg(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	_, rec := run(t, js, feed.Config{StartSeq: 2})
	eventually(t, "level", rec.level(3))
	publish(t, js, "events.a", "4")
	want(t, rec, "2", "4")
}

// A mirror's messages are older than the mirror. The leader's word for it is enough.
func TestMirrorIsFollowed(t *testing.T) {
	js := single(t)
	createStream(t, js, jetstream.StreamConfig{Name: "ORIGIN", Subjects: []string{"events.>"}})
	for _, d := range []string{"1", "2", "3"} {
		publish(t, js, "events.a", d)
	}
	cfg := eventsConfig()
	cfg.Subjects, cfg.Mirror = nil, &jetstream.StreamSource{Name: "ORIGIN"}
	createStream(t, js, cfg)
	f, rec := run(t, js, feed.Config{StartSeq: 1}.Polls(50*time.Millisecond))
	want(t, rec, "1", "2", "3")
	publish(t, js, "events.a", "4")
	want(t, rec, "1", "2", "3", "4")
	if got := f.Stats().Mode; got != feed.ModeRepublish {
		t.Errorf("mode = %s", got)
	}
}
