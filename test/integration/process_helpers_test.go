//go:build unix

package integration

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/exesdb/subproxy/test/harness"
	"github.com/nats-io/nats.go/jetstream"
)

const processStore = "greenhouse"

// processConfig is the text of a configuration in which nothing happens by a timer, with these
// subscriptions.
func processConfig(url string, replicas int, subscriptions ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `nats: {url: "%s"}
instance: {name: proxy-a}
registry: {replicas: %d}
subscription_proxy: {initial_reregister_interval: 1h, normal_reregister_interval: 24h}
status: {summary_interval: 100ms, emitter_silent_after: 0s}
http: {addr: "127.0.0.1:0"}
stores:
  - id: %s
    subscriptions:
`, url, replicas, processStore)
	for _, s := range subscriptions {
		b.WriteString("      - " + s + "\n")
	}
	return b.String()
}

// processMany are n subscriptions, and their keys.
func processMany(n int) (subscriptions, keys []string) {
	for i := range n {
		subscriptions = append(subscriptions, fmt.Sprintf("{name: reader-%d, type: by_stream, selector: plant-%d}", i, i))
		keys = append(keys, fmt.Sprintf("%s.by_stream.plant-%d.reader-%d", processStore, i, i))
	}
	return subscriptions, keys
}

// processAwait waits until the instance has n proxies and each is healthy, verified, and as wanted.
func processAwait(w *world, p *harness.Instance, n int, what string, as func(harness.Status) bool) (statuses []harness.Status) {
	w.Helper()
	defer func() {
		if w.Failed() && len(statuses) > 0 {
			w.Logf("%d statuses, the first: %+v", len(statuses), statuses[0])
		}
	}()
	w.Eventually(fmt.Sprintf("%d proxies healthy, verified and %s", n, what), func() bool {
		if p.HasEnded() {
			w.Fatalf("subproxy ended: %s", p.Outcome())
		}
		var ok bool
		if _, statuses, ok = w.StatusesOf(p.ID); !ok || len(statuses) != n {
			return false
		}
		for _, s := range statuses {
			if s.Health != "healthy" || !s.Verified || !s.Registered || s.Owner.ID != p.ID || !as(s) {
				return false
			}
		}
		return true
	})
	return statuses
}

func processAnyStatus(harness.Status) bool { return true }

func processSince(revision uint64, cause string) func(harness.Status) bool {
	return func(s harness.Status) bool { return s.Revision > revision && s.LastCause == cause }
}

// processVerifiedAt is when the last of them was verified.
func processVerifiedAt(statuses []harness.Status) (at time.Time) {
	for _, s := range statuses {
		if s.LastSuccess != nil && s.LastSuccess.After(at) {
			at = *s.LastSuccess
		}
	}
	return at
}

// processRecords waits until the bucket holds a record as wanted under each key, and returns them. Reads
// are answered by any replica, so that one that lags is read again.
func processRecords(w *world, keys []string, what string, as func(harness.Record) bool) map[string]harness.Record {
	w.Helper()
	found := map[string]harness.Record{}
	for _, key := range keys {
		found[key] = w.Await(key, what, as)
	}
	return found
}

// processLast is the bucket's last revision.
func processLast(w *world) uint64 {
	w.Helper()
	return processStream(w).State.LastSeq
}

// processStream is what JetStream says about the bucket's stream, once it says something.
func processStream(w *world) (info *jetstream.StreamInfo) {
	w.Helper()
	w.Eventually("information about the bucket's stream", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		stream, err := w.JS.Stream(ctx, harness.BucketStream)
		if err == nil {
			info = stream.CachedInfo()
		}
		return err == nil
	})
	return info
}
