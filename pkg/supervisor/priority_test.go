package supervisor

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

// crowded is a bucket where, once it is full, a write that comes with others waits.
type crowded struct {
	*table
	full atomic.Bool
}

func (b *crowded) Put(ctx context.Context, writes []kv.Write) []kv.Result {
	if len(writes) > 1 && b.full.Load() {
		<-ctx.Done()
	}
	return b.table.Put(ctx, writes)
}

func TestOperatorsAttemptWaitsForNoOther(t *testing.T) {
	const n = maxBatches*batchSize + 1000 // more than can be under way
	bubble(t, func(t *testing.T) {
		var bucket *crowded
		r := newRig(t, testSettings, n, func(o *Options) {
			bucket = &crowded{table: o.Bucket.(*table)}
			o.Bucket = bucket
		})
		defer r.stop()
		bucket.full.Store(true)
		r.Tell("s", Cluster{Cause: registration.LeaderChanged, SeenAt: time.Now()})
		synctest.Wait() // three batches hang, and the rest waits for them
		before := time.Now()
		last := testSubscriptions(n)[n-1].Name
		statuses, err := r.Reregister(t.Context(), "s", last)
		if err != nil || len(statuses) != 1 || !verified(statuses[0]) || statuses[0].Name != last || statuses[0].LastCause != registration.Manual {
			t.Fatalf("%+v, %v", statuses, err)
		}
		if took := time.Since(before); took > 0 {
			t.Errorf("it waited for %v", took)
		}
		preferred := make(chan bool, 1)
		r.loops.byStore["s"].inbox.post(func(l *loop, _ time.Time) { preferred <- l.byName[last].asked })
		if <-preferred {
			t.Error("its next attempts go first too")
		}
		bucket.full.Store(false)
		r.loops.byStore["s"].dispatcher.batches.GiveUp(time.Now().Add(time.Hour), 0)
	})
}

func TestOperatorsRequestBeforeTheStartIsAnsweredAfterIt(t *testing.T) {
	for what, c := range map[string]struct {
		begin func(*rig)
		ok    func(status.Status) bool
	}{
		"registered": {func(r *rig) { r.Begin(true) }, verified},
		"assigned to another": {func(r *rig) {
			r.Share([]placement.Member{{Name: "host-b"}}, func(registration.Owner) placement.Liveness { return placement.Alive })
			r.Begin(true)
		}, func(s status.Status) bool { return s.Health == breaker.Standby }},
		"superseded": {func(r *rig) { r.Retire(registration.Owner{Name: "host-a", ID: "later"}) }, func(s status.Status) bool { return s.Health == breaker.Standby }},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRigToBegin(t, testSettings, 3)
				defer r.stop()
				answered := make(chan []status.Status, 1)
				go func() {
					statuses, err := r.Reregister(t.Context(), "s", "sub_1")
					if err != nil {
						t.Error(err)
					}
					answered <- statuses
				}()
				synctest.Wait()
				if len(answered) > 0 {
					t.Error("answered before the start")
				}
				c.begin(r)
				synctest.Wait()
				if got := <-answered; len(got) != 1 || !c.ok(got[0]) {
					t.Errorf("answered %+v", got)
				}
			})
		})
	}
}
