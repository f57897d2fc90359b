package supervisor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

func TestStoreAlertIsResolvedAndRaisedAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 5)
		defer r.stop()
		outage := func() {
			r.bucket.set(func(b *table) { b.fail, b.failKey = errTest, "" })
			r.Tell("s", Cluster{Cause: registration.LeaderChanged, SeenAt: time.Now()})
			time.Sleep(5 * time.Second) // degraded, not failed
			r.bucket.set(func(b *table) { b.failKey = testSubscriptions(1)[0].Key() })
			time.Sleep(2 * time.Minute)
			r.bucket.set(func(b *table) { b.fail = nil })
			r.Tell("s", Cluster{Cause: registration.LeaderChanged, SeenAt: time.Now()})
			time.Sleep(2 * time.Second)
			synctest.Wait()
		}
		var first []status.Level
		for n := range 2 {
			outage()
			r.mu.Lock()
			var levels []status.Level
			open := map[string]int{}
			for _, a := range r.alerts {
				levels = append(levels, a.Level)
				if a.Level == status.Resolved {
					open[a.Scope+a.Name] = 0
				} else {
					open[a.Scope+a.Name]++
				}
			}
			r.alerts = nil
			r.mu.Unlock()
			for who, n := range open {
				if n != 0 {
					t.Errorf("the alert of %s is never resolved", who)
				}
			}
			if n == 0 {
				first = levels
			} else if len(levels) != len(first) {
				t.Errorf("the second outage was told as %v, the first as %v", levels, first)
			}
		}
	})
}

func TestRemovalDuringAnAttemptThatFailsStillReleases(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 3)
		defer r.stop()
		r.bucket.set(func(b *table) { b.hang = true })
		r.Tell("s", Cluster{Cause: registration.LeaderChanged, SeenAt: time.Now()})
		synctest.Wait()
		r.Apply(testSubscriptions(1))
		time.Sleep(100 * time.Millisecond)
		r.bucket.set(func(b *table) { b.hang = false })
		r.Tell("s", Cluster{Cause: registration.LeaderChanged, SeenAt: time.Now()}) // gives up what hangs
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if n := r.bucket.records(); n != 1 {
			t.Errorf("%d records, want 1", n)
		}
	})
}

func TestShorterIntervalBringsTimersForward(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := testSettings
		s.InitialInterval, s.NormalInterval = 24*time.Hour, 24*time.Hour
		r := newRig(t, s, 3)
		defer r.stop()
		before := r.bucket.writes
		s.InitialInterval, s.NormalInterval = time.Second, time.Second
		s.HeartbeatInterval, s.SummaryInterval = 30*time.Second, 5*time.Second
		r.SetSettings(s)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if r.bucket.writes-before < 3 {
			t.Errorf("%d writes in two of the new intervals", r.bucket.writes-before)
		}
		if _, err := r.Statuses(context.Background(), control.Request{}); err != nil {
			t.Error(err)
		}
	})
}
