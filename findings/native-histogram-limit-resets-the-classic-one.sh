#!/usr/bin/env bash
# client_golang 1.25.0: a histogram with classic buckets and a native one of limited size (NativeHistogramMaxBucketNumber) that
# may be reset (NativeHistogramMinResetDuration).
# Guess: when there are too many native buckets, the native part begins anew and the classic buckets, sum and count, which
# Prometheus takes for counters of the process's life, go on. Seen: they are set back too, in the middle of the process's life.
# Without a reset duration the resolution is lowered instead, and nothing is lost.
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
cd "$dir"
printf 'module finding\n\ngo 1.26\n' > go.mod
cat > main.go <<'GO'
package main

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func main() {
	for _, reset := range []time.Duration{time.Nanosecond, 0} {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "h", Help: "h", Buckets: []float64{1, 1e12},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 10, NativeHistogramMinResetDuration: reset,
		})
		v := 1e-3
		for range 200 {
			h.Observe(v)
			v *= 1.15
			time.Sleep(time.Microsecond)
		}
		var m dto.Metric
		must(h.Write(&m))
		fmt.Println("reset allowed:", reset > 0, "all 200 counted:", m.GetHistogram().GetSampleCount() == 200,
			"by the classic buckets:", m.GetHistogram().GetBucket()[1].GetCumulativeCount() == 200)
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
GO
go get github.com/prometheus/client_golang@v1.25.0 github.com/prometheus/client_model >/dev/null 2>&1
got="$(GOFLAGS=-mod=mod go run .)"
want='reset allowed: true all 200 counted: false by the classic buckets: false
reset allowed: false all 200 counted: true by the classic buckets: true'
echo "$got"
[ "$got" = "$want" ] || { echo "changed; it was:"; echo "$want"; exit 1; }
