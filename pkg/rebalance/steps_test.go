package rebalance

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/registration"
)

var (
	self  = registration.Owner{Name: "a", ID: "a1"}
	other = registration.Owner{Name: "b", ID: "b1"}
)

// sharing is a Rebalancer that shares with the other, which drains if it is not to hold anything.
func sharing(now time.Time, draining ...string) *Rebalancer {
	members := []placement.Member{{Name: self.Name}, {Name: other.Name}}
	for i := range members {
		for _, name := range draining {
			members[i].Draining = members[i].Draining || members[i].Name == name
		}
	}
	r := New(self)
	alive := func(registration.Owner) placement.Liveness { return placement.Alive }
	r.Note(Input{Kind: MembersChanged, Members: placement.NewMembers(self, members, alive)}, now)
	return r
}

func TestManyClaimsAreSpreadOverSteps(t *testing.T) {
	now, n := time.Unix(1000, 0), 2*maxPerStep+1
	r := New(self)
	for i := range n {
		r.Note(Input{Kind: StoodBy, Key: fmt.Sprint(i)}, now)
	}
	claimed := map[string]bool{}
	for steps := 1; ; steps++ {
		fx := r.Step(now)
		if len(fx.Claim) > maxPerStep {
			t.Fatalf("%d claims in a step", len(fx.Claim))
		}
		for _, key := range fx.Claim {
			claimed[key] = true
		}
		if fx.More != (steps < 3) {
			t.Fatalf("more after %d steps: %v", steps, fx.More)
		}
		if !fx.More {
			break
		}
	}
	if len(claimed) != n {
		t.Errorf("%d of %d are claimed", len(claimed), n)
	}
}

func TestRequestsAreNoMoreThanTheWindow(t *testing.T) {
	now, n := time.Unix(1000, 0), 3*FirstWindow
	r := sharing(now, other.Name)
	for i := range n {
		r.Note(Input{Kind: StoodBy, Key: fmt.Sprint(i), Holder: &other}, now)
	}
	fx := r.Step(now)
	if len(fx.Request) != 1 || fx.Request[0].Holder != other || len(fx.Request[0].Keys) != FirstWindow {
		t.Fatalf("%+v", fx.Request)
	}
	if again := r.Step(now); len(again.Request) > 0 {
		t.Fatalf("requested before any is answered: %+v", again.Request)
	}
	// One is offered and registered at once: there is room for it, and one more.
	key := fx.Request[0].Keys[0]
	r.Note(Input{Kind: Held, Key: key}, now)
	r.Note(Input{Kind: Accepted, Key: key}, now)
	r.Note(Input{Kind: Registered, Key: key, Began: now}, now)
	if fx := r.Step(now); len(fx.Request) != 1 || len(fx.Request[0].Keys) != 2 {
		t.Errorf("%+v", fx.Request)
	}
}

func TestStateFollowsATransferFromHere(t *testing.T) {
	now, key := time.Unix(1000, 0), "k"
	r := sharing(now, self.Name)
	is := func(want State, offered int) {
		t.Helper()
		if state, _ := r.StateOf(key); state != want || r.Offered() != offered {
			t.Fatalf("state %d with %d offered; want %d and %d", state, r.Offered(), want, offered)
		}
	}
	r.Note(Input{Kind: Requested, Key: key, Holder: &other}, now)
	is(Still, 0)
	if fx := r.Step(now); len(fx.Release) != 1 || fx.Release[0] != (Grant{key, other}) || !fx.More {
		t.Fatalf("%+v", fx)
	}
	r.Note(Input{Kind: Released, Key: key, Draining: true}, now)
	r.Note(Input{Kind: StoodBy, Key: key}, now) // nobody holds it, and it is on its way
	is(Releasing, 0)
	if fx := r.Step(now); len(fx.Offer)+len(fx.Claim) > 0 || fx.HandedOver != 1 {
		t.Fatalf("it is offered before its sink has nothing in hand: %+v", fx)
	}
	o := Offer{Key: key, Revision: 7, Incarnation: 3, At: registration.Position{Accepted: 9, Epoch: "e"}}
	r.Note(Input{Kind: Drained, Offer: o}, now)
	fx := r.Step(now)
	if len(fx.Offer) != 1 || fx.Offer[0].To != other || fx.Offer[0].Offers[0] != o || fx.Next != now.Add(OfferPatience) {
		t.Fatalf("%+v", fx)
	}
	is(Releasing, 1)
	now = now.Add(time.Millisecond)
	r.Note(Input{Kind: Seen, Key: key, Revision: 8, Holder: &other, Taken: true}, now)
	is(Still, 0)
	if fx := r.Step(now); len(fx.Transferred) != 1 || fx.Transferred[0] != time.Millisecond || len(fx.Reclaim) > 0 {
		t.Fatalf("%+v", fx)
	}
}

// A subscription that is given up is removed from the configuration, and configured again: this instance
// registers it by itself, so that nothing is offered or reclaimed.
func TestWhatIsConfiguredAnewIsNotGivenUp(t *testing.T) {
	for _, drainedFirst := range []bool{false, true} {
		now, key := time.Unix(1000, 0), "k"
		r := sharing(now, self.Name)
		r.Note(Input{Kind: Requested, Key: key, Holder: &other}, now)
		r.Step(now)
		r.Note(Input{Kind: Released, Key: key, Draining: true}, now)
		again := func() {
			r.Note(Input{Kind: Removed, Key: key}, now)
			r.Note(Input{Kind: Held, Key: key}, now)
		}
		if !drainedFirst {
			again()
		}
		r.Note(Input{Kind: Drained, Offer: Offer{Key: key, Revision: 7}}, now)
		if drainedFirst {
			r.Step(now)
			again()
		}
		fx := r.Step(now.Add(OfferPatience))
		if state, _ := r.StateOf(key); state != Still || len(fx.Offer)+len(fx.Reclaim) > 0 || r.Offered() > 0 {
			t.Errorf("drained before it was configured anew: %v; state %d, %+v", drainedFirst, state, fx)
		}
	}
}

// second is a key that the other member may claim before this one does.
func second(r *Rebalancer) string {
	for i := 0; ; i++ {
		key := fmt.Sprint(i)
		if _, rank := r.group.members.Decide(key, nil); rank == 1 {
			return key
		}
	}
}

// claimsAt steps at the time, and checks whether the key is claimed then.
func claimsAt(t *testing.T, r *Rebalancer, at time.Time, key string, want bool) {
	t.Helper()
	if got := slices.Contains(r.Step(at).Claim, key); got != want {
		t.Fatalf("claimed at %v: %v", at.Sub(time.Unix(1000, 0)), got)
	}
}

func TestATurnWaitsWhileAMemberOfLowerRankIsClaiming(t *testing.T) {
	for _, claims := range []bool{false, true} {
		now := time.Unix(1000, 0)
		r := sharing(now)
		key := second(r)
		r.Note(Input{Kind: StoodBy, Key: key}, now)
		claimsAt(t, r, now.Add(Turn-time.Millisecond), key, false)
		last := now
		if claims { // of many that nobody holds this is one
			last = now.Add(Turn / 2)
			r.Note(Input{Kind: Seen, Key: "another", Revision: 7, Holder: &other, Taken: true}, last)
		}
		claimsAt(t, r, now.Add(Turn), key, !claims)
		if claims {
			claimsAt(t, r, last.Add(Turn), key, true)
		}
	}
}

func TestTurnsBeginAgainWhenMembersChange(t *testing.T) {
	now := time.Unix(1000, 0)
	r := sharing(now)
	key, members := second(r), r.group.members
	r.Note(Input{Kind: StoodBy, Key: key}, now)
	changed := now.Add(Turn / 2)
	r.Note(Input{Kind: MembersChanged, Members: members}, changed)
	r.Note(Input{Kind: StoodBy, Key: key}, changed)
	claimsAt(t, r, now.Add(Turn), key, false) // another may have come, which has its turn before
	claimsAt(t, r, changed.Add(Turn), key, true)
}

// More is requested than may be on its way at once. Before the rest comes, it is no longer the other
// member's to have.
func TestAGrantIsCheckedAgainWhenThereIsRoomForIt(t *testing.T) {
	now := time.Unix(1000, 0)
	r, after := sharing(now, self.Name), sharing(now, other.Name).group.members
	for i := range FirstWindow + 1 {
		r.Note(Input{Kind: Requested, Key: fmt.Sprint(i), Holder: &other}, now)
	}
	fx := r.Step(now)
	if len(fx.Release) != FirstWindow {
		t.Fatalf("%d released", len(fx.Release))
	}
	r.Note(Input{Kind: MembersChanged, Members: after}, now)
	for _, g := range fx.Release {
		r.Note(Input{Kind: Kept, Key: g.Key}, now)
	}
	if fx := r.Step(now); len(fx.Release) > 0 {
		t.Errorf("%+v is released for a member that drains", fx.Release)
	}
}
