package supervisor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/rebalance"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

// newSharingRig is a rig that shares with nobody yet.
func newSharingRig(t *testing.T, n int) *rig {
	r := &rig{t: t, bucket: &table{entries: map[string]kv.Entry{}}, metrics: NewMetrics(nil), statuses: map[string]int{}}
	settings := testSettings
	settings.InitialInterval, settings.NormalInterval = time.Hour, time.Hour
	settings.HeartbeatInterval, settings.SummaryInterval = time.Hour, time.Hour
	r.Supervisor = New(Options{
		Owner: registration.Owner{Name: "host-a", ID: "id-a"}, Bucket: r.bucket, Settings: settings, Metrics: r.metrics,
		Connected: func() bool { return true }, Publish: r.publish, Shares: true,
	})
	r.bucket.feed = r.Entry
	r.Apply(testSubscriptions(n))
	r.shareWith()
	r.Begin(true)
	synctest.Wait()
	return r
}

// shareWith makes these the other members, all alive.
func (r *rig) shareWith(others ...string) {
	members := []placement.Member{{Name: "host-a"}}
	for _, name := range others {
		members = append(members, placement.Member{Name: name})
	}
	r.Share(members, func(registration.Owner) placement.Liveness { return placement.Alive })
	synctest.Wait()
}

// claim writes a registration of somebody else.
func (r *rig) claim(n int, owner registration.Owner, incarnation uint64) {
	sub := testSubscriptions(n + 1)[n]
	record := registration.Registration{Subscription: sub, Owner: owner, Incarnation: incarnation}
	data, err := record.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	r.bucket.set(func(b *table) { b.put(sub.Key(), data, 0) })
	synctest.Wait()
}

// A run that was stopped, goes on, and has not heard yet that another one has its name, may claim what that
// one holds. If this one retired for it, as the other does once it hears of its session, nobody would be
// left.
func TestClaimOfAnEarlierRunRetiresNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newSharingRig(t, 2)
		defer r.stop()
		r.claim(0, registration.Owner{Name: "host-a", ID: "earlier"}, 2)
		if r.Retired() {
			t.Fatal("this run retired")
		}
		time.Sleep(rebalance.Turn)
		synctest.Wait()
		r.require(2, "verified", verified)
		if record, err := lastOf(r.bucket, testSubscriptions(1)[0].Key()); err != nil || record.Owner.ID != "id-a" || record.Incarnation != 3 {
			t.Errorf("%+v, %v", record, err)
		}
	})
}

func TestTwoRunsThatSessionsDoNotTellOfTakeFromEachOtherEverMoreSeldom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newSharingRig(t, 2)
		defer r.stop()
		key := testSubscriptions(1)[0].Key()
		incarnation := uint64(1)
		for _, waits := range []int{1, 2, 4, 8, 16, 32, 64, 64} {
			incarnation++
			r.claim(0, registration.Owner{Name: "host-a", ID: "another"}, incarnation)
			incarnation++
			for n := range waits + 1 {
				record, err := lastOf(r.bucket, key)
				if mine := record.Owner.ID == "id-a"; err != nil || mine != (n == waits) {
					t.Fatalf("%d turns after it was taken: %+v, %v; want it back after %d", n, record, err, waits)
				}
				if n < waits {
					time.Sleep(rebalance.Turn)
					synctest.Wait()
				}
			}
		}
		r.shareWith() // sessions tell
		r.claim(0, registration.Owner{Name: "host-a", ID: "another"}, incarnation+1)
		time.Sleep(rebalance.Turn)
		synctest.Wait()
		if record, err := lastOf(r.bucket, key); err != nil || record.Owner.ID != "id-a" {
			t.Errorf("%+v, %v", record, err)
		}
	})
}

// Which of two runs of a name is to end is told by their sessions. One that sees the other's registrations
// first waits for that.
func TestRunLeavesWhatALaterOneHoldsUntilItHearsOfItsEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newSharingRig(t, 2)
		defer r.stop()
		later := registration.Owner{Name: "host-a", ID: "later"}
		before := r.bucket.writes
		r.claim(0, registration.Owner{Name: "host-b", ID: "id-b"}, 2)
		r.claim(0, later, 3)
		r.claim(1, later, 2)
		time.Sleep(rebalance.Turn - time.Millisecond)
		synctest.Wait()
		r.Retire(later)
		time.Sleep(time.Minute)
		synctest.Wait()
		if r.bucket.writes != before {
			t.Errorf("it wrote %d times", r.bucket.writes-before)
		}
		r.require(2, "standing by", func(st status.Status) bool { return st.Health == breaker.Standby && st.Owner.ID == "later" })
	})
}
