package supervisor

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestLatencyCountsForAsLongAsTheProcessLives observes more magnitudes than there are native buckets, for
// longer than any of them would be kept: neither count and sum nor the classic buckets may go back.
func TestLatencyCountsForAsLongAsTheProcessLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		latency := NewMetrics(registry).Latency.WithLabelValues("timer")
		count, sum, within := uint64(0), 0.0, uint64(0)
		for hour := range 5 {
			for n := range 400 {
				seconds := 1e-6 * math.Pow(1.05, float64(n))
				latency.Observe(seconds)
				count++
				sum += seconds
				if seconds <= 0.0001*math.Pow(4, 8) {
					within++
				}
			}
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				if f.GetName() != "subproxy_registration_latency_seconds" {
					continue
				}
				got := f.GetMetric()[0].GetHistogram()
				if got.GetSampleCount() != count || math.Abs(got.GetSampleSum()-sum) > sum/1e6 {
					t.Errorf("hour %d: count %d, sum %v; want %d, %v", hour, got.GetSampleCount(), got.GetSampleSum(), count, sum)
				}
				classic := got.GetBucket()
				if last := classic[len(classic)-1]; last.GetCumulativeCount() != within {
					t.Errorf("hour %d: up to %v there are %d, want %d", hour, last.GetUpperBound(), last.GetCumulativeCount(), within)
				}
				if native := len(got.GetPositiveDelta()); native == 0 || native > 120 {
					t.Errorf("hour %d: %d native buckets", hour, native)
				}
			}
			time.Sleep(time.Hour)
		}
	})
}
