package demo

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	types "github.com/exesdb/subproxy/pkg/subscription"
)

func TestReportFitsATerminal(t *testing.T) {
	for _, compare := range []bool{false, true} {
		var out bytes.Buffer
		r := newReport(Options{Out: &out, Duration: 90 * time.Minute, Rate: 500, Seed: 1 << 40, Compare: compare})
		r.start()
		r.begin("nats://127.0.0.1:65535,nats://127.0.0.1:65534")
		sum := totals{sent: 999_999, delivered: 99_999_999, lost: 12345, duplicated: 999, foreign: 1}
		worst := outcome{verified: -1, delivery: 39 * time.Second, publisher: 39 * time.Second, totals: sum}
		for k := range kindCount {
			for _, s := range greenhouse() {
				what := k.of("emitter-2")
				if k == registrationDeleted {
					what = k.of(s.name)
				}
				r.line(&fault{world: &world{}, kind: k, at: r.began.Add(89 * time.Minute), what: what}, []outcome{worst, worst}[:1+b(compare)])
			}
		}
		result := r.summary([]totals{sum, sum}[:1+b(compare)])
		if want := (1 + b(compare)) * 12345; result.Lost != want || result.Faults != 35 {
			t.Errorf("got %+v, want %d lost", result, want)
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 120 {
				t.Errorf("%d columns: %s", n, line)
			}
		}
		if !strings.Contains(out.String(), "went to subscribers that do not want them") {
			t.Errorf("foreign events are not told:\n%s", out.String())
		}
	}
}

func b(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func TestSpreadIsMedianAndMaximum(t *testing.T) {
	var all [][]outcome
	for _, d := range []time.Duration{5 * time.Second, time.Millisecond, -1, 20 * time.Millisecond} {
		all = append(all, []outcome{{verified: d}})
	}
	if got := spread(all, 0, verifiedOf); got[0] != "2.51 s" || got[1] != "> 40 s" {
		t.Errorf("got %v", got)
	}
}

// A store's id is one token everywhere, so that what the demo subscribes to has no wildcard in the wrong
// place.
func TestStoresAreTokens(t *testing.T) {
	for _, id := range []string{store, timerOnly} {
		if types.EncodeToken(id) != id {
			t.Error(id)
		}
	}
}
