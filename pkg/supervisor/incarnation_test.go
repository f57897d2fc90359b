package supervisor

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// stop ends a claimant as a loop does: what it holds it releases.
func (c *claimant) stop() {
	c.step(proxy.Input{Kind: proxy.Stop})
	c.pending = false
}

// TestIncarnationsNeverGoBack lets instances come, hold the subscription, be superseded, restart it, and
// release it, while they follow the bucket as late as they like, which shows what is last under the key and
// not always what was before. No record has a lower incarnation than one before it, and none of another
// owner has the same.
func TestIncarnationsNeverGoBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := subscription.Subscription{Store: "s", Type: subscription.ByStream, Selector: "$all", Name: "n"}
		m := &memory{}
		var all []*claimant
		pick := func(t *rapid.T) *claimant {
			if len(all) == 0 {
				t.Skip("nobody is there")
			}
			return all[rapid.IntRange(0, len(all)-1).Draw(t, "instance")]
		}
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"come": func(t *rapid.T) {
				n++
				c := newClaimant(m, n, s)
				all = append(all, c)
				c.followed = max(len(m.history)-1, 0)
				if rapid.Bool().Draw(t, "level first") {
					c.follow(m, 1)
				}
				c.step(proxy.Input{Kind: proxy.Start})
			},
			"attempt":        func(t *rapid.T) { pick(t).attempt() },
			"follow":         func(t *rapid.T) { pick(t).follow(m, rapid.IntRange(1, 5).Draw(t, "entries")) },
			"miss":           func(t *rapid.T) { c := pick(t); c.followed = max(c.followed, len(m.history)-1) }, // history 1
			"leader changed": func(t *rapid.T) { pick(t).step(proxy.Input{Kind: proxy.Event, Cause: registration.LeaderChanged}) },
			"restart":        func(t *rapid.T) { pick(t).step(proxy.Input{Kind: proxy.Restart}) },
			"lost ack":       func(*rapid.T) { m.swallow = true },
			"release": func(t *rapid.T) {
				c := pick(t)
				m.swallow = false // it is written again, and the release as well
				if c.proxy.Registered && c.proxy.Record.Mine {
					c.stop()
				}
			},
			"": func(t *rapid.T) {
				var last registration.Registration
				for _, e := range m.history {
					if e.Operation != kv.Put {
						continue
					}
					record, err := registration.Decode(e.Key, e.Data)
					if err != nil {
						t.Fatal(err)
					}
					if record.Incarnation < last.Incarnation || record.Incarnation == last.Incarnation && record.Owner.ID != last.Owner.ID {
						t.Fatalf("incarnation %d of %s comes after %d of %s", record.Incarnation, record.Owner.ID, last.Incarnation, last.Owner.ID)
					}
					last = record
				}
			},
		})
	})
}

func TestReleaseTellsItsIncarnationToTheNext(t *testing.T) {
	m := &memory{}
	s := subscription.Subscription{Store: "s", Type: subscription.ByStream, Selector: "$all", Name: "n"}
	for n := range 4 {
		c := newClaimant(m, n, s)
		c.followed = max(len(m.history)-1, 0)
		if n%2 == 0 { // the other finds the marker when it loses the race
			c.follow(m, 1)
		}
		c.step(proxy.Input{Kind: proxy.Start})
		c.attempt()
		record, err := lastRecord(m)
		if want := uint64(n + 1); err != nil || record.Incarnation != want || record.Owner.ID != fmt.Sprintf("id-%d", n) {
			t.Fatalf("%+v, %v; want incarnation %d", record, err, want)
		}
		c.stop()
		if e := m.last(); e.Operation != kv.Deleted || e.Incarnation != record.Incarnation {
			t.Fatalf("released: %+v", e)
		}
	}
}
