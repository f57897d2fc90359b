package feed_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/feed"
)

// statuses are values of a header Status with which a message without data looks like an answer of the
// server.
var statuses = []string{"500", "503", "204", "404", "408", "409", "100", "open", ""}

// publishStatus stores a message without data and with that header.
func publishStatus(t testing.TB, js jetstream.JetStream, status string) {
	t.Helper()
	m := nats.NewMsg("events.a")
	m.Header["Status"], m.Header["Description"] = []string{status}, []string{"EOB"}
	// Of a publisher that copies what it once got from a stream.
	for k, v := range map[string]string{
		jetstream.StreamHeader: "OTHER", jetstream.SequenceHeader: "4711", jetstream.LastSequenceHeader: "0", "Nats-Pending-Messages": "7", "Nats-Num-Pending": "0",
	} {
		m.Header[k] = []string{v}
	}
	if _, err := js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// publishStatuses stores 1, a message of each status, and 2.
func publishStatuses(t testing.TB, js jetstream.JetStream) {
	t.Helper()
	publish(t, js, "events.a", "1")
	for _, status := range statuses {
		publishStatus(t, js, status)
	}
	publish(t, js, "events.a", "2")
}

// awaitStatuses waits for what publishStatuses stored.
func awaitStatuses(t testing.TB, rec *recorder) {
	t.Helper()
	expected := []string{"1"}
	for range statuses {
		expected = append(expected, "")
	}
	want(t, rec, append(expected, "2")...)
	checkStatuses(t, rec.messages())
}

func checkStatuses(t testing.TB, messages []feed.Message) {
	t.Helper()
	var got []string
	for i, m := range messages {
		if m.Sequence != uint64(i+1) || m.Subject != "events.a" || m.Time.IsZero() {
			t.Errorf("message %d: %+v", i, m)
		}
		if v := m.Header["Status"]; len(v) > 0 {
			got = append(got, v[0])
		}
	}
	if diff := cmp.Diff(statuses, got); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
}

func TestMessageWithAHeaderStatusIsAMessage(t *testing.T) {
	for _, mode := range []string{feed.ModeRepublish, feed.ModeOrdered} {
		configure := func() jetstream.StreamConfig {
			cfg := eventsConfig()
			if mode == feed.ModeOrdered {
				cfg.RePublish = nil
			}
			return cfg
		}
		t.Run("live "+mode, func(t *testing.T) {
			js := single(t)
			createStream(t, js, configure())
			f, rec := run(t, js, feed.Config{StartSeq: 1}.Polls(never))
			eventually(t, "second look", func() bool { return f.Stats().Polls == 2 })
			publishStatuses(t, js)
			awaitStatuses(t, rec)
		})
		t.Run("at the start "+mode, func(t *testing.T) {
			js := single(t)
			createStream(t, js, configure())
			publishStatuses(t, js)
			_, rec := run(t, js, feed.Config{StartSeq: 1}.Polls(never))
			awaitStatuses(t, rec)
		})
	}
	t.Run("in a gap", func(t *testing.T) {
		js := single(t)
		createStream(t, js, eventsConfig())
		_, rec := unpolled(t, js)
		publish(t, js, "events.a", "1")
		want(t, rec, "1")
		deaf(t, js, func() {
			for _, status := range statuses {
				publishStatus(t, js, status)
			}
		})
		publish(t, js, "events.a", "2")
		awaitStatuses(t, rec)
	})
	for _, status := range statuses { // each alone: it is the last, and nothing comes behind it
		t.Run(fmt.Sprintf("live, the last, %q", status), func(t *testing.T) {
			js := single(t)
			createStream(t, js, eventsConfig())
			f, rec := unpolled(t, js)
			publishStatus(t, js, status)
			eventually(t, "it", func() bool { return f.Stats().LastSeq == 1 && rec.count() == 1 })
		})
	}
	t.Run("read by pages, one by one, and by a consumer", func(t *testing.T) {
		js := single(t)
		stream := createStream(t, js, eventsConfig())
		publishStatuses(t, js)
		n := len(statuses) + 2
		r := reader(t, js, stream)
		for name, read := range map[string]func(from uint64) ([]feed.Message, error){
			"pages": func(from uint64) ([]feed.Message, error) { return r.Read(t.Context(), from, 4, 1<<20) },
			"one":   func(from uint64) ([]feed.Message, error) { return r.Read(t.Context(), from, 1, 1<<20) },
			"stretch": func(from uint64) ([]feed.Message, error) {
				return r.BulkReader(new(said).log()).Read(t.Context(), from, n, 1<<20)
			},
		} {
			var all []feed.Message
			for len(all) < n {
				page, err := read(uint64(len(all) + 1))
				if err != nil {
					t.Fatalf("%s: %v after %d", name, err, len(all))
				}
				all = append(all, page...)
			}
			checkStatuses(t, all)
		}
	})
}
