package digest

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatHappensOftenIsLoggedOnceAMinuteWithACount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		d := New(slog.New(slog.NewTextHandler(&b, nil)), time.Minute)
		lines := func(want ...string) {
			t.Helper()
			synctest.Wait()
			d.mu.Lock() // which is held while it writes
			text := b.String()
			b.Reset()
			d.mu.Unlock()
			got := slices.Collect(strings.Lines(text))
			if len(got) != len(want) {
				t.Fatalf("logged %q, want %q", got, want)
			}
			for i := range got {
				if !strings.Contains(got[i], want[i]) {
					t.Errorf("logged %q, want %q", got[i], want[i])
				}
			}
		}
		d.Add(slog.LevelWarn, "s", "parked", "sequence", 1)
		lines("level=WARN msg=parked store=s events=1 sequence=1")
		for n := range 50_000 {
			d.Add(slog.LevelWarn, "s", "parked", "sequence", n+2)
		}
		lines()
		d.Add(slog.LevelError, "s", "parked")
		d.Add(slog.LevelWarn, "other", "parked")
		lines("level=ERROR", "store=other")
		time.Sleep(time.Minute + time.Second)
		lines("store=s events=50000 sequence=50001")
		d.Add(slog.LevelWarn, "s", "parked", "sequence", 7)
		lines()
		time.Sleep(time.Minute)
		lines("events=1 sequence=7")
		time.Sleep(time.Minute)
		lines()
		d.Add(slog.LevelWarn, "s", "parked", "sequence", 8) // nothing for a minute
		lines("events=1 sequence=8")
		d.Add(slog.LevelWarn, "s", "parked", "sequence", 9)
		d.Close()
		lines("events=1 sequence=9")
		d.Add(slog.LevelWarn, "s", "parked", "sequence", 10)
		lines("events=1 sequence=10")
	})
}
