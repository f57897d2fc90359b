package feed_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/feed"
)

// never is a poll interval that no test outlasts: what is seen was not found by polling.
const never = time.Hour

func want(t testing.TB, rec *recorder, data ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d messages", len(data)), func() bool { return rec.count() >= len(data) })
	if diff := cmp.Diff(append([]string{}, data...), rec.data()); diff != "" {
		t.Fatalf("messages (-want +got):\n%s", diff)
	}
}

func single(t testing.TB) jetstream.JetStream {
	t.Helper()
	return connect(t, runServer(t, t.TempDir(), -1))
}

func TestConfigIsChecked(t *testing.T) {
	js := single(t)
	for _, cfg := range []feed.Config{
		{}, {Stream: "a.b", Handler: &recorder{}}, {Stream: "S"},
	} {
		if _, err := feed.New(js, cfg); !errors.Is(err, feed.ErrConfig) {
			t.Errorf("New(%+v) = %v, want ErrConfig", cfg, err)
		}
	}
}

func TestStartReadsWhatIsThereThenGoesOnLive(t *testing.T) {
	js := single(t)
	stream := createStream(t, js, eventsConfig())
	for i := range 25 {
		publish(t, js, "events.a", fmt.Sprint(i))
	}
	if err := stream.DeleteMsg(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	f, rec := run(t, js, feed.Config{StartSeq: 5}.Polls(never).Pages(4))
	eventually(t, "level", rec.level(25))
	publish(t, js, "events.b", "live")

	expected := []string{"4", "5"}
	for i := 7; i < 25; i++ {
		expected = append(expected, fmt.Sprint(i))
	}
	want(t, rec, append(expected, "live")...)
	last := rec.messages()[20]
	if last.Subject != "events.b" || last.Sequence != 26 || last.Time.IsZero() {
		t.Errorf("message = %+v", last)
	}
	if s := f.Stats(); s.Mode != feed.ModeRepublish || s.Gaps != 0 || s.Filled != 0 || s.LastSeq != 26 {
		t.Errorf("stats = %+v", s)
	}
}

func TestStartAtTheEndSeesOnlyWhatIsNew(t *testing.T) {
	js := single(t)
	createStream(t, js, eventsConfig())
	publish(t, js, "events.a", "old")
	_, rec := run(t, js, feed.Config{}.Polls(never))
	eventually(t, "level", rec.level(1))
	publish(t, js, "events.a", "new")
	want(t, rec, "new")
}

// A live message far ahead makes the feed read what it missed: here nothing was stored there, which the
// leader says.
func TestForgedGapDeliversNothingAndLosesNothing(t *testing.T) {
	js := single(t)
	createStream(t, js, eventsConfig())
	publish(t, js, "events.a", "1")
	f, rec := run(t, js, feed.Config{StartSeq: 1}.Polls(never))
	eventually(t, "level", rec.level(1))
	forge(t, js, 40)
	eventually(t, "gap", func() bool { return f.Stats().Gaps == 1 })
	publish(t, js, "events.a", "2")
	want(t, rec, "1", "2")
}

// deaf makes the stream republish elsewhere while do runs: what is stored then is lost on the live path.
func deaf(t testing.TB, js jetstream.JetStream, do func()) {
	t.Helper()
	cfg := eventsConfig()
	cfg.RePublish.Destination = "elsewhere.>"
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	do()
	if _, err := js.UpdateStream(t.Context(), eventsConfig()); err != nil {
		t.Fatal(err)
	}
}

// unpolled follows a stream, and returns when the feed will not look again by itself.
func unpolled(t testing.TB, js jetstream.JetStream) (*feed.Feed, *recorder) {
	t.Helper()
	f, rec := run(t, js, feed.Config{StartSeq: 1}.Polls(never))
	eventually(t, "second look", func() bool { return f.Stats().Polls == 2 })
	return f, rec
}

func TestDroppedLiveMessagesAreFilled(t *testing.T) {
	js := single(t)
	stream := createStream(t, js, eventsConfig())
	publish(t, js, "events.a", "1")
	f, rec := unpolled(t, js)
	deaf(t, js, func() {
		for _, d := range []string{"2", "3", "4"} {
			publish(t, js, "events.a", d)
		}
		if err := stream.DeleteMsg(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
	})
	want(t, rec, "1")
	publish(t, js, "events.a", "5")
	want(t, rec, "1", "2", "4", "5")
	eventually(t, "counts", func() bool { s := f.Stats(); return s.Gaps == 1 && s.Filled == 3 })
}

func TestSlowHandlerLosesNothing(t *testing.T) {
	js := single(t)
	slow := dial(t, js.Conn().ConnectedUrl(), nats.SyncQueueLen(16))
	createStream(t, js, eventsConfig())
	rec := &recorder{block: make(chan struct{})}
	f, _ := run(t, slow, feed.Config{Handler: rec})
	eventually(t, "level", rec.level(0))
	expected := make([]string, 200)
	for i := range expected {
		expected[i] = fmt.Sprint(i)
		publish(t, js, "events.a", expected[i])
	}
	close(rec.block)
	want(t, rec, expected...)
	if s := f.Stats(); s.Gaps == 0 {
		t.Errorf("nothing was dropped, so nothing was tested: %+v", s)
	}
}

func TestPollFindsLostLastMessage(t *testing.T) {
	js := single(t)
	createStream(t, js, eventsConfig())
	f, rec := unpolled(t, js)
	deaf(t, js, func() { publish(t, js, "events.a", "lost") })
	want(t, rec)
	f.Poke()
	want(t, rec, "lost")
}

func TestNewRepublishDestinationIsFollowed(t *testing.T) {
	js := single(t)
	createStream(t, js, eventsConfig())
	_, rec := run(t, js, feed.Config{}.Polls(50*time.Millisecond))
	eventually(t, "level", rec.level(0))
	cfg := eventsConfig()
	cfg.RePublish.Destination = "elsewhere.>"
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	eventually(t, "new subscription", func() bool { return interested(t, js, "elsewhere.x") })
	publish(t, js, "events.a", "live")
	want(t, rec, "live")
}

// interested reports whether somebody subscribes to subject.
func interested(t testing.TB, js jetstream.JetStream, subject string) bool {
	t.Helper()
	_, err := js.Conn().Request(subject, nil, 5*time.Millisecond)
	return !errors.Is(err, nats.ErrNoResponders)
}

// A message that expired at the end of the stream leaves a last sequence at which nothing is.
func TestLevelIsReachedThoughTheEndOfTheStreamIsDeleted(t *testing.T) {
	js := single(t)
	stream := createStream(t, js, eventsConfig())
	for _, d := range []string{"1", "2", "3"} {
		publish(t, js, "events.a", d)
	}
	for _, seq := range []uint64{2, 3} {
		if err := stream.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	_, rec := run(t, js, feed.Config{StartSeq: 1}.Polls(never))
	eventually(t, "level", rec.level(3))
	publish(t, js, "events.a", "4")
	want(t, rec, "1", "4")
}

func TestExpiryMarkerIsSeen(t *testing.T) {
	js := single(t)
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{
		Bucket: "b", History: 1, LimitMarkerTTL: time.Minute, RePublish: &jetstream.RePublish{Source: ">", Destination: "registry.>"},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, rec := run(t, js, feed.Config{Stream: "KV_b", StartSeq: 1}.Polls(never))
	eventually(t, "level", rec.level(0))
	if _, err := kv.Create(t.Context(), "k", []byte("v"), jetstream.KeyTTL(time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	want(t, rec, "v", "", "")
	msgs := rec.messages()
	if got := msgs[0].Header.Get("Nats-TTL"); got != "1s" {
		t.Errorf("Nats-TTL = %q", got)
	}
	if got := msgs[1].Header.Get("KV-Operation"); got != "DEL" {
		t.Errorf("KV-Operation = %q", got)
	}
	if got := msgs[2].Header.Get("Nats-Marker-Reason"); got != "MaxAge" || msgs[2].Subject != "$KV.b.k" {
		t.Errorf("Nats-Marker-Reason = %q on %s", got, msgs[2].Subject)
	}
}

func TestStreamInAnotherDomainIsFollowed(t *testing.T) {
	s := startServer(t, &server.Options{
		ServerName: "hub", Host: "127.0.0.1", Port: -1, JetStream: true, JetStreamDomain: "hub", StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	})
	js, err := jetstream.NewWithDomain(connect(t, s).Conn(), "hub")
	if err != nil {
		t.Fatal(err)
	}
	createStream(t, js, eventsConfig())
	publish(t, js, "events.a", "1")
	_, rec := run(t, js, feed.Config{StartSeq: 1})
	eventually(t, "level", rec.level(1))
	want(t, rec, "1")
}

func TestRunEndsWithItsContextWhereverItIs(t *testing.T) {
	js := single(t)
	f, err := feed.New(js, feed.Config{Stream: "NONE", Handler: &recorder{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := f.Run(ctx); err != nil {
		t.Errorf("Run = %v", err)
	}
}
