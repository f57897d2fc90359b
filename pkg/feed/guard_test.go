package feed_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/feed"
)

// TestMessagesOfAnotherStreamAreIgnored has another stream of the same name send under the republish
// subject what begins where the stream ends, what lies far behind it, and what lies far ahead.
func TestMessagesOfAnotherStreamAreIgnored(t *testing.T) {
	t.Parallel()
	for name, sequence := range map[string]func(last uint64) uint64{
		"the next one": func(last uint64) uint64 { return last + 1 },
		"behind":       func(last uint64) uint64 { return last / 2 },
		"far ahead":    func(last uint64) uint64 { return last + 1_000_000 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := dial(t, runServer(t, t.TempDir(), -1).ClientURL())
			createStream(t, js, eventsConfig())
			var want []string
			for i := range 10 {
				want = append(want, fmt.Sprint(i))
				publish(t, js, "events.a", want[i])
			}
			var log lines
			f, rec := run(t, js, feed.Config{StartSeq: 1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			eventually(t, "level", rec.level(10))
			const said = "messages of another stream of the same name"
			for i := 10; i < 3000 && (i < 200 || log.count(said) == 0); i++ {
				forge(t, js, sequence(uint64(i)))
				want = append(want, fmt.Sprint(i))
				publish(t, js, "events.a", want[i])
				if i%10 == 0 { // so that looks fall between them
					eventually(t, "all own", func() bool { return rec.count() >= len(want) })
					time.Sleep(10 * time.Millisecond)
				}
			}
			eventually(t, "all own, and nothing else", func() bool { return strings.Join(rec.data(), " ") == strings.Join(want, " ") })
			if s := f.Stats(); s.Resets > 1 || s.Foreign < 3 || log.count(said) != 1 {
				t.Errorf("%+v, and it is said %d times", s, log.count(said))
			}
		})
	}
}

// TestManyMessagesOnGuardAreReadInPages has a feed on guard read what is stored in a burst: not message by
// message.
func TestManyMessagesOnGuardAreReadInPages(t *testing.T) {
	t.Parallel()
	js := dial(t, runServer(t, t.TempDir(), -1).ClientURL())
	createStream(t, js, eventsConfig())
	publish(t, js, "events.a", "0")
	f, rec := run(t, js, feed.Config{StartSeq: 1})
	eventually(t, "level", rec.level(1))
	eventually(t, "on guard", func() bool { forge(t, js, 1); time.Sleep(time.Millisecond); return f.Stats().Foreign > 0 })
	asked, err := js.Conn().SubscribeSync("$JS.API.DIRECT.GET.EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	const n = 3000
	for i := range n {
		if _, err := js.PublishAsync("events.a", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all", func() bool { return rec.count() == n+1 })
	if requests, _, err := asked.Pending(); err != nil || requests > n/5 {
		t.Errorf("%d requests for %d messages, %v", requests, n, err)
	}
	if s := f.Stats(); s.Resets > 0 {
		t.Errorf("%+v", s)
	}
}

// lines is what is logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}
