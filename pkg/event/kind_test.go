package event

import (
	"testing"

	"github.com/nats-io/nats.go"
)

func TestMarkersAndSchedulesAreNoEvents(t *testing.T) {
	for _, c := range []struct {
		header nats.Header
		want   Kind
	}{
		{nil, IsEvent},
		{nats.Header{"ce-type": {"created"}}, IsEvent},
		{nats.Header{"Nats-Marker-Reason": {"MaxAge"}, "Nats-TTL": {"1h"}}, Marker},
		{nats.Header{"Nats-Marker-Reason": {"Purge"}}, Marker},
		{nats.Header{"Nats-Marker-Reason": {"Remove"}}, Marker},
		{nats.Header{"Nats-Marker-Reason": {"a later server's"}}, Marker},
		// A schedule whose source is a subject that expired copies the marker.
		{nats.Header{"Nats-Marker-Reason": {"MaxAge"}, "Nats-Scheduler": {"s"}}, Marker},
		{nats.Header{"Nats-Schedule": {"@at 2026-11-30T12:00:00Z"}, "Nats-Schedule-Target": {"t"}, "ce-type": {"reminder"}}, Schedule},
		{nats.Header{"Nats-Schedule": {"@every 1h"}, "Nats-Schedule-Source": {"s"}, "Nats-Schedule-TTL": {"5m"}}, Schedule},
		{nats.Header{"Nats-Scheduler": {"s"}, "Nats-Schedule-Next": {"purge"}, "ce-type": {"reminder"}}, IsEvent},
		{nats.Header{"Nats-TTL": {"1h"}}, IsEvent},
		{nats.Header{"Nats-Rollup": {"sub"}}, IsEvent},
	} {
		if got := KindOf(c.header); got != c.want {
			t.Errorf("%v is %q, want %q", c.header, got, c.want)
		}
	}
}
