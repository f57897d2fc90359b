package bench

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
)

const (
	latencyFor    = time.Second            // of each pipeline, a round
	latencyWarmUp = 300 * time.Millisecond // not counted
	latencyRounds = 2
)

// latency measures events as they are written, at a modest rate, until the subscriber has them.
func (d *delivery) latency(ctx context.Context, all []*pipeline) error {
	if d.Rate == 0 {
		return nil
	}
	samples := make([][]time.Duration, len(all))
	for round := range min(d.Rounds, latencyRounds) {
		fmt.Fprintf(d.Progress, "latency, round %d…\n", round+1)
		for i := range all {
			i = (i + round) % len(all)
			got, err := d.live(ctx, all[i])
			if err != nil {
				return fmt.Errorf("%s: %w", all[i].name, err)
			}
			samples[i] = append(samples[i], got...)
		}
	}
	for i, c := range all {
		d.report.durations(fmt.Sprintf("latency at %d events/s, 1 subscription: %s", d.Rate, c.name), samples[i])
	}
	return nil
}

// live returns the latency of each event.
func (d *delivery) live(ctx context.Context, c *pipeline) ([]time.Duration, error) {
	info, err := c.at.stream.Info(ctx)
	if err != nil {
		return nil, err
	}
	interval := time.Second / time.Duration(d.Rate)
	warmUp, n := int(latencyWarmUp/interval), int((latencyWarmUp+latencyFor)/interval)
	t := newCounter(n)
	var mu sync.Mutex
	samples := make([]time.Duration, 0, n)
	runtime.GC()
	stop, err := c.start(ctx, info.State.LastSeq+1, func(data []byte) {
		now := time.Now()
		if at, err := writtenAt(data); err == nil {
			mu.Lock()
			samples = append(samples, now.Sub(at))
			mu.Unlock()
		}
		t.one(data)
	})
	if err != nil {
		return nil, err
	}
	defer stop()
	if err := backoff.Sleep(ctx, settle); err != nil { // until it has begun
		return nil, err
	}
	start := time.Now()
	for i := range n {
		if ahead := time.Until(start.Add(time.Duration(i) * interval)); ahead > 0 {
			if err := backoff.Sleep(ctx, ahead); err != nil {
				return nil, err
			}
		}
		if err := c.at.writer.write(); err != nil {
			return nil, err
		}
	}
	if err := c.at.writer.stored(ctx); err != nil {
		return nil, err
	}
	if err := t.wait(ctx); err != nil {
		return nil, err
	}
	if err := backoff.Sleep(ctx, settle); err != nil {
		return nil, err
	}
	d.surplus += t.surplus()
	mu.Lock()
	defer mu.Unlock()
	return samples[min(warmUp, len(samples)):], nil
}
