package bench

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// at makes times of milliseconds.
func at(ms ...int) (times []time.Time) {
	for _, m := range ms {
		times = append(times, time.UnixMilli(int64(m)))
	}
	return times
}

func TestPauseIsCountedBeyondThePublishersAtThatTime(t *testing.T) {
	for name, c := range map[string]struct {
		got, acked []time.Time
		from, want int
	}{
		"the publisher paused as long":        {got: at(0, 10, 510, 520), acked: at(0, 10, 510, 520), want: 0},
		"longer than the publisher":           {got: at(0, 10, 600, 610), acked: at(0, 10, 510, 520), want: 90},
		"the publisher paused another time":   {got: at(0, 10, 110, 120, 130), acked: at(0, 10, 20, 110, 120, 620), want: 10},
		"none at all":                         {got: at(0, 10, 20), acked: at(0, 10, 20), want: 0},
		"before the fault":                    {got: at(0, 500, 510), acked: at(0, 10, 20, 510), from: 505, want: 0},
		"a publisher that stopped has no end": {got: at(0, 10, 300), acked: at(0, 10), want: 290},
	} {
		if got := longestBeyond(c.got, c.acked, time.UnixMilli(int64(c.from))); got != time.Duration(c.want)*time.Millisecond {
			t.Errorf("%s: %v, want %d ms", name, got, c.want)
		}
	}
}

func TestAccountCountsWhatIsLostTwiceAndLate(t *testing.T) {
	w, err := newWriter(&nats.Conn{}, "s", 3, LeastSize)
	if err != nil {
		t.Fatal(err)
	}
	var data [][]byte
	for range 6 {
		m := w.next()
		if len(m.Data) != LeastSize {
			t.Fatalf("%d bytes of data, want %d: %s", len(m.Data), LeastSize, m.Data)
		}
		data = append(data, m.Data)
	}
	a := newArrivals("a")
	for _, i := range []int{1, 3, 2, 3, 5} { // 4 is lost, 3 came twice, 2 late
		a.got(data[i])
	}
	if got := a.account(1, 6); got != (account{lost: 1, twice: 1, late: 1}) {
		t.Errorf("%+v", got)
	}
	if written, err := writtenAt(data[0]); err != nil || time.Since(written) > time.Minute {
		t.Errorf("written at %v, %v", written, err)
	}
}

func TestReportSaysWhichWayATargetIsMissed(t *testing.T) {
	r := &Report{}
	r.target("slow", 3, 2.5, "×")
	r.targetAtLeast("few", 0.5, 1, "×")
	r.targetAtLeast("enough", 1, 1, "×")
	var b bytes.Buffer
	r.Write(&b)
	if missed := r.Missed(); len(missed) != 2 || missed[0].Wanted() != "at most 2.50 ×" || missed[1].Wanted() != "at least 1.00 ×" {
		t.Errorf("missed %+v", missed)
	}
	if strings.Count(b.String(), "MISSED") != 2 {
		t.Error(b.String())
	}
}
