package status

import (
	"fmt"
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
)

func TestMessagesGoToTheContractsSubjects(t *testing.T) {
	for got, want := range map[string]string{
		StatusSubject("a.b", "c d"): "exesdb.proxy.status.a=2Eb.c=20d",
		AlertSubject("s", "n"):      "exesdb.proxy.alert.s.n",
		AlertSubject("$s", ""):      "exesdb.proxy.alert.=24s",
		SummarySubject("s:1"):       "exesdb.proxy.summary.s=3A1",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestEnvelopeIsNewAndInUTC(t *testing.T) {
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.FixedZone("", 3600))
	a, b := NewEnvelope(StatusType, now), NewEnvelope(StatusType, now)
	if a.ID == b.ID || a.Type != StatusType || fmt.Sprint(a.Timestamp) != "2026-11-23 07:00:00 +0000 UTC" {
		t.Errorf("got %+v and %+v", a, b)
	}
}

func TestCountsAreByHealth(t *testing.T) {
	var c Counts
	for i, h := range []breaker.Health{breaker.Healthy, breaker.Degraded, breaker.Failed, breaker.Standby, breaker.Unknown} {
		c.Add(h, i+1)
	}
	if c != (Counts{Healthy: 1, Degraded: 2, Failed: 3, Standby: 4, Unknown: 5}) || c.Count(breaker.Failed) != 3 {
		t.Errorf("got %+v", c)
	}
}
