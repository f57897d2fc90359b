package supervisor

import (
	"maps"
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

func TestHandsOverAPartAtATime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n = 1000
		r := newRig(t, testSettings, n)
		defer r.stop()
		members := []placement.Member{{Name: "host-a"}, {Name: "host-b"}}
		sharing, to := placement.NewRendezvous(members), registration.Owner{Name: "host-b", ID: "id-b"}
		r.Share(members, func(registration.Owner) placement.Liveness { return placement.Alive })
		subs, theirs := map[string]subscription.Subscription{}, map[string]bool{} // by name; what host-b is to get, and has not
		for _, s := range testSubscriptions(n) {
			subs[s.Name] = s
			if sharing.Assign(s.Key()) == to.Name {
				theirs[s.Name] = true
			}
		}
		r.HandOver(status.HandOver{Store: "s", Names: slices.Collect(maps.Keys(subs)), To: to})
		for rounds := 0; len(theirs) > 0; rounds++ {
			synctest.Wait()
			given := r.takeGiven()
			if len(given) == 0 || rounds == 0 && len(given) > rebalance.FirstWindow || len(given) > rebalance.MaxWindow {
				t.Fatalf("%d handed over in round %d, and %d to go", len(given), rounds, len(theirs))
			}
			r.bucket.set(func(b *table) {
				for _, h := range given {
					if e := b.entries[subs[h.Name].Key()]; !theirs[h.Name] || e.Revision != h.Revision || h.Incarnation != 1 {
						t.Fatalf("%+v is handed over, of %+v", h, e)
					}
					delete(theirs, h.Name)
					record := registration.Registration{Subscription: subs[h.Name], Owner: to, Incarnation: 2, Cause: registration.Takeover, DeliverSubject: "d"}
					data, err := record.Encode()
					if err != nil {
						t.Fatal(err)
					}
					b.put(record.Key(), data, 0)
				}
			})
		}
		synctest.Wait()
		if held, err := r.Holds(t.Context(), "", ""); err != nil || held == 0 || held > n-n/3 {
			t.Errorf("%d are held still, %v", held, err)
		}
	})
}

func TestWhatNobodyTakesHoldsUpNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n = 200
		r := newRig(t, testSettings, n)
		defer r.stop()
		to := registration.Owner{Name: "host-b", ID: "id-b"}
		r.Share([]placement.Member{{Name: "host-a", Draining: true}, {Name: "host-b"}}, func(registration.Owner) placement.Liveness { return placement.Alive })
		released := map[string]bool{}
		r.bucket.set(func(b *table) {
			b.feed = func(e kv.Entry) {
				if e.Operation != kv.Put {
					released[e.Key] = true
				}
				r.Entry(e)
			}
		})
		var all []string
		for _, s := range testSubscriptions(n) {
			all = append(all, s.Name)
		}
		r.HandOver(status.HandOver{Store: "s", Names: all, To: to})
		time.Sleep(rebalance.UnseenPatience*n/rebalance.FirstWindow + rebalance.OfferPatience)
		synctest.Wait()
		if len(released) < n {
			t.Errorf("%d of %d were released", len(released), n)
		}
	})
}
