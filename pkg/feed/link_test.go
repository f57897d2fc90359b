package feed_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/feed"
)

// over is a stream with messages of that size, and a way to it over a link. Nobody may be disconnected.
func over(t *testing.T, link testbed.Link, messages, size int) (far jetstream.JetStream, name string) {
	t.Helper()
	s := runServer(t, t.TempDir(), -1)
	near := connect(t, s)
	stream := createStream(t, near, eventsConfig())
	data := bytes.Repeat([]byte("x"), size)
	for range messages {
		if _, err := near.PublishMsg(t.Context(), &nats.Msg{Subject: "events.a", Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	relay, err := testbed.NewRelay(s.ClientURL(), link)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(relay.Close)
	return dial(t, relay.URL(), nats.Timeout(10*time.Second), nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
		if err != nil {
			t.Errorf("disconnected: %v", err)
		}
	})), stream.CachedInfo().Config.Name
}

func TestStreamIsReadOverALongWay(t *testing.T) {
	t.Parallel()
	const n = 50
	js, name := over(t, testbed.Link{Delay: 200 * time.Millisecond}, n, 100)
	_, got := run(t, js, feed.Config{Stream: name, StartSeq: 1})
	eventually(t, "all messages", func() bool { return got.count() == n })
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	r := reader(t, js, stream)
	for _, read := range []func() ([]feed.Message, error){
		func() ([]feed.Message, error) { return r.Read(t.Context(), 1, n, 1<<20) },
		func() ([]feed.Message, error) { return r.BulkReader(new(said).log()).Read(t.Context(), 1, n, 1<<20) },
	} {
		if messages, err := read(); err != nil || len(messages) != n {
			t.Fatalf("%d messages, %v", len(messages), err)
		}
	}
}

// What is asked for over a thin link fits through it: nothing is given up while it arrives, and the server
// gives up nobody.
func TestLargeMessagesAreReadOverAThinLink(t *testing.T) {
	t.Parallel()
	const n, size = 6, 400_000
	js, name := over(t, testbed.Link{Rate: 2_000_000}, n, size)
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	done := make(chan error, 3)
	for range 3 {
		r := reader(t, js, stream)
		go func() {
			for next := uint64(1); next <= n; {
				messages, err := r.Read(t.Context(), next, 1000, 4<<20)
				if err != nil && !errors.Is(err, feed.ErrNothing) {
					done <- fmt.Errorf("from %d: %w", next, err)
					return
				}
				next += uint64(len(messages))
			}
			done <- nil
		}()
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if took, least := time.Since(began), time.Duration(3*n*size/2)*time.Microsecond; took > 2*least {
		t.Errorf("%s for what takes %s", took, least)
	}
}

// Pages that are asked for ahead show what is there, once and in order, wherever messages are missing, and take
// fewer round trips than pages.
func TestPagesAskedForAheadLeaveNothingOut(t *testing.T) {
	t.Parallel()
	const n, batch, roundTrip = 600, 20, 100 * time.Millisecond
	js, name := over(t, testbed.Link{Delay: roundTrip / 2}, n, 100)
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	gone := map[uint64]bool{}
	for seq := uint64(101); seq < 300; seq++ { // a part with nothing, and one with every third
		if seq < 200 || seq%3 > 0 {
			gone[seq] = true
		}
	}
	var work errgroup.Group
	work.SetLimit(100)
	for seq := range gone {
		work.Go(func() error { return stream.DeleteMsg(t.Context(), seq) })
	}
	if err := work.Wait(); err != nil {
		t.Fatal(err)
	}
	var a *feed.AheadReader
	r := reader(t, js, stream)
	eventually(t, "the way was measured to be long", func() bool { a = r.AheadReader(); return a != nil })
	began, last := time.Now(), uint64(0)
	for last < n {
		messages, err := a.Read(t.Context(), last+1, batch, 1<<20, n, 16)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if m.Sequence <= last { // shown again
				continue
			}
			for last++; gone[last]; last++ {
			}
			if m.Sequence != last {
				t.Fatalf("%d in place of %d", m.Sequence, last)
			}
		}
	}
	if took := time.Since(began); took > n/batch*roundTrip*3/4 {
		t.Errorf("%s for %d pages with a round trip of %s", took, n/batch, roundTrip)
	}
}
