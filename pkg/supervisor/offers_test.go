package supervisor

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/rebalance"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/exesdb/subproxy/pkg/subscription"
)

var hostB = registration.Owner{Name: "host-b", ID: "id-b"}

// drainingRig is an instance that drains and was asked by host-b for its one subscription.
func drainingRig(t *testing.T) (*rig, subscription.Subscription) {
	r, sub := newSharingRig(t, 1), testSubscriptions(1)[0]
	r.Share([]placement.Member{{Name: "host-a", Draining: true}, {Name: "host-b"}}, func(registration.Owner) placement.Liveness { return placement.Alive })
	r.HandOver(status.HandOver{Store: "s", Names: []string{sub.Name}, To: hostB})
	return r, sub
}

// leave is what host-b says when it leaves the subscription to this instance.
func (r *rig) leave(n int, from registration.Owner, revision uint64, place registration.Position) {
	sub := testSubscriptions(n + 1)[n]
	r.HandedOver(status.HandedOver{Store: sub.Store, From: from, Subscriptions: []status.Handed{{Name: sub.Name, Revision: revision, Incarnation: 5, Position: place}}})
	synctest.Wait()
}

// entry is what the bucket has.
func (r *rig) entry(key string) (e kv.Entry) {
	r.bucket.set(func(b *table) { e = b.entries[key] })
	return e
}

// suits is a subscription that suits host-a better than host-b.
func suits(t *testing.T) int {
	sharing := placement.NewRendezvous([]placement.Member{{Name: "host-a"}, {Name: "host-b"}})
	n := slices.IndexFunc(testSubscriptions(20), func(s subscription.Subscription) bool { return sharing.Assign(s.Key()) == "host-a" })
	if n < 0 {
		t.Fatal("none of 20 suits host-a")
	}
	return n
}

func TestWhatIsHandedOverIsWrittenOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := suits(t)
		r := newSharingRig(t, n+1)
		defer r.stop()
		r.shareWith("host-b")
		key := testSubscriptions(n + 1)[n].Key()
		r.claim(n, hostB, 5)
		before, err := lastOf(r.bucket, key)
		if err != nil || before.Owner != hostB {
			t.Fatalf("%+v, %v", before, err)
		}
		revision, place := r.entry(key).Revision, registration.Position{Accepted: 7, Epoch: "e"}
		stays := func(why string) {
			t.Helper()
			if got, err := lastOf(r.bucket, key); err != nil || got.Owner != hostB {
				t.Errorf("%s: it is taken: %+v, %v", why, got, err)
			}
		}
		r.leave(n, registration.Owner{Name: "host-b", ID: "another run"}, revision, place)
		stays("left by one that does not hold it")
		r.leave(n, hostB, revision-1, place)
		stays("left at a revision that is no more")
		r.Share([]placement.Member{{Name: "host-a", Draining: true}, {Name: "host-b"}}, func(registration.Owner) placement.Liveness { return placement.Alive })
		r.leave(n, hostB, revision, place)
		stays("this instance drains since")

		r.shareWith("host-b")
		r.leave(n, hostB, revision, place)
		got, err := lastOf(r.bucket, key)
		if err != nil || got.Owner.ID != "id-a" || got.Incarnation != 6 || got.HandedOver != place || got.Cause != registration.Takeover {
			t.Errorf("%+v, %v", got, err)
		}
		r.leave(n, hostB, revision, place) // repeated
		if _, err := r.Reregister(t.Context(), "s", got.Name); err != nil {
			t.Fatal(err)
		}
		if again, err := lastOf(r.bucket, key); err != nil || again.Incarnation != 6 || again.HandedOver != (registration.Position{}) {
			t.Errorf("%+v, %v", again, err)
		}
	})
}

// Somebody writes the record, between the holder's word and this instance's write: where the holder stopped
// says nothing then.
func TestWhatWasNotTakenFromItsHolderBeginsAtTheCheckpoint(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := suits(t)
		r := newSharingRig(t, n+1)
		defer r.stop()
		r.shareWith("host-b")
		key := testSubscriptions(n + 1)[n].Key()
		r.claim(n, hostB, 5)
		revision := r.entry(key).Revision
		r.bucket.set(func(b *table) {
			feed := b.feed
			b.feed = nil // host-b gave up waiting and released it; this instance has not heard
			b.put(key, nil, 5)
			b.feed = feed
		})
		r.leave(n, hostB, revision, registration.Position{Accepted: 7, Epoch: "e"})
		got, err := lastOf(r.bucket, key)
		if err != nil || got.Owner.ID != "id-a" || got.Incarnation != 6 || got.HandedOver != (registration.Position{}) {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestWhatIsLeftAndNotTakenIsReleased(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, sub := drainingRig(t)
		defer r.stop()
		synctest.Wait()
		record, err := lastOf(r.bucket, sub.Key())
		given := r.takeGiven()
		if err != nil || record.Owner.ID != "id-a" || len(given) != 1 || given[0].Name != sub.Name || given[0].Incarnation != record.Incarnation || given[0].Revision != r.entry(sub.Key()).Revision {
			t.Fatalf("%+v, %v; given %+v", record, err, given)
		}
		if n, err := r.remaining(t.Context()); n != 1 || err != nil {
			t.Errorf("%d are on their way, %v", n, err)
		}
		r.require(1, "on its way", func(st status.Status) bool { return st.Moving == status.Releasing })
		time.Sleep(rebalance.OfferPatience - time.Millisecond)
		if r.entry(sub.Key()).Operation != kv.Put {
			t.Fatal("it is released at once")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if e := r.entry(sub.Key()); e.Operation != kv.Deleted || e.Incarnation != record.Incarnation {
			t.Errorf("%+v", e)
		}
		if n, err := r.remaining(t.Context()); n != 0 || err != nil {
			t.Errorf("%d are on their way, %v", n, err)
		}
	})
}

func TestWhatIsLeftIsReleasedInTimeThoughNothingElseHappens(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, sub := drainingRig(t)
		defer r.stop()
		time.Sleep(rebalance.OfferPatience + time.Millisecond)
		synctest.Wait()
		if e := r.entry(sub.Key()); e.Operation != kv.Deleted {
			t.Errorf("%+v", e)
		}
	})
}

// A write whose acknowledgement is lost may be stored after the subscription was left to another, which
// can't write over it then.
func TestOwnLateWriteOfWhatWasLeftIsReleased(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, sub := drainingRig(t)
		defer r.stop()
		synctest.Wait()
		if given := r.takeGiven(); len(given) != 1 {
			t.Fatalf("given %+v", given)
		}
		r.claim(0, registration.Owner{Name: "host-a", ID: "id-a"}, 1)
		if e := r.entry(sub.Key()); e.Operation != kv.Deleted {
			t.Errorf("%+v", e)
		}
	})
}
