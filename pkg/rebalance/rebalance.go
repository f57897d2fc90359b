package rebalance

import (
	"time"

	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/registration"
)

// Rebalancer is one instance's side of all transfers of a store's subscriptions. It belongs to the
// goroutine that runs the store's loop.
type Rebalancer struct {
	group    *group
	receiver receiver // of what comes to this instance
	sender   sender   // of what it gives up
}

// group are the instances that share a store's subscriptions, as this one sees them.
type group struct {
	self    registration.Owner
	members *placement.Members // nil: the store is not shared
	latency latencyFloor       // of this instance's registrations
}

func (g *group) decide(key string, holder *registration.Owner) (placement.Action, int) {
	switch {
	case g.members != nil:
		return g.members.Decide(key, holder)
	case holder != nil:
		return placement.Leave, 0
	default:
		return placement.Claim, 0
	}
}

// New makes the rebalancer of an instance that shares with nobody.
func New(self registration.Owner) *Rebalancer {
	g := &group{self: self}
	return &Rebalancer{group: g, receiver: newReceiver(g), sender: newSender(g)}
}

// Kind says what an Input is.
type Kind uint8

// The kinds of input.
const (
	MembersChanged Kind = iota // Members share from now on; StoodBy follows for every subscription that this instance does not hold
	StoodBy                    // Key is registered for Holder (nil: nobody), and not for this instance
	Held                       // this instance registers Key, or is about to
	Removed                    // Key is no longer this instance's to hold
	Seen                       // the bucket shows an entry of Key at Revision: Mine, of Holder, or a marker (neither)
	RivalSeen                  // another run of this instance's name claimed a subscription that this one held
	Requested                  // Holder requests Key of this instance, which could release it
	Released                   // Key was released, as an effect said; Draining: its sink has something in hand
	Kept                       // Key was not released, although an effect said so
	Drained                    // what was released has nothing in hand any more: Offer
	Reclaimed                  // the record of Key is deleted, as an effect said, or could not be
	Accepted                   // this instance began to register Key, which was offered to it
	Registered                 // an attempt to register Key ended, which Began then; Failed: it holds it not
)

// Input is one thing that happened.
type Input struct {
	Kind     Kind
	Key      string
	Members  *placement.Members // of MembersChanged: those that share the store; nil: nobody
	Holder   *registration.Owner
	Revision uint64    // of Seen
	Mine     bool      // of Seen
	Taken    bool      // of Seen: Holder was not the holder before
	Draining bool      // of Released
	Offer    Offer     // of Drained
	Began    time.Time // of Registered
	Took     time.Duration
	Failed   bool // of Registered
}

// Grant is a subscription that this instance is to release for another.
type Grant struct {
	Key string
	To  registration.Owner
}

// Offer is a subscription that its holder has released for another instance, and where it stopped.
type Offer struct {
	Key         string
	Revision    uint64 // of its record
	Incarnation uint64
	At          registration.Position
}

// Request is what one holder is to be asked for.
type Request struct {
	Holder registration.Owner
	Keys   []string
}

// Offers are those that one instance is to be sent.
type Offers struct {
	To     registration.Owner
	Offers []Offer
}

// Effects are what a step asks for.
type Effects struct {
	Claim   []string  // register these: nobody holds them
	Request []Request // ask these holders
	Release []Grant   // release these, and note Released or Kept for each
	Offer   []Offers  // tell these members
	Reclaim []Offer   // delete the records of these, which nobody accepted, and note Reclaimed for each

	Transferred []time.Duration // how long each took that was released, and is another's since the last step
	HandedOver  int             // so many were released for others, and none is left to be; 0: nothing to tell
	AtOnce      int             // so many of them at once

	More bool      // step again, once the effects are performed
	Next time.Time // when to step again, if nothing is noted before; zero: not
}

// maxPerStep bounds the turns and the claims of one step.
const maxPerStep = 256

// Note takes an input. What follows from it is for the next Step to say.
func (r *Rebalancer) Note(in Input, now time.Time) {
	switch in.Kind {
	case MembersChanged:
		r.group.members = in.Members
		r.receiver.beginAnew()
	case StoodBy:
		if r.sender.outgoing[in.Key] == nil { // else nothing is done about it until it is another's
			r.receiver.standBy(in.Key, in.Holder, now)
		}
	case Held:
		r.receiver.forget(in.Key)
		r.sender.keepOffer(in.Key)
	case Removed:
		r.receiver.forget(in.Key)
		delete(r.receiver.accepted, in.Key)
		r.sender.forget(in.Key)
	case Seen:
		if in.Taken {
			r.receiver.claimSeenAt = now
		}
		r.sender.seen(in, now)
	case RivalSeen:
		r.receiver.rivalry.observe(now)
	case Requested:
		r.sender.grant(in.Key, *in.Holder)
	case Released:
		r.sender.released(in.Key, in.Draining, now)
	case Kept:
		r.sender.kept(in.Key)
	case Drained:
		r.sender.drained(in.Offer)
	case Reclaimed:
		r.sender.reclaimed(in.Key, now)
	case Accepted:
		r.receiver.accepted[in.Key] = struct{}{}
	default: // Registered
		if !in.Failed {
			r.group.latency.observe(in.Took, now)
		}
		r.receiver.registered(in, now)
	}
}

// Step says what to do now.
func (r *Rebalancer) Step(now time.Time) (fx Effects) {
	r.receiver.stepTurns(now, &fx)
	r.receiver.stepClaims(now, &fx)
	r.receiver.stepRequests(now, &fx)
	r.sender.stepGrants(now, &fx)
	r.sender.stepOffers(now, &fx)
	fx.Transferred, r.sender.transferred = r.sender.transferred, nil
	return fx
}

// wakeAt makes sure that the next step is no later.
func (fx *Effects) wakeAt(at time.Time) {
	if fx.Next.IsZero() || at.Before(fx.Next) {
		fx.Next = at
	}
}

// Shares reports whether the store is shared with other instances, now or later.
func (r *Rebalancer) Shares() bool { return r.group.members != nil }

// MayStart reports whether this instance registers a subscription at once that it begins with, and that
// holder (nil: nobody) was seen to hold.
func (r *Rebalancer) MayStart(key string, holder *registration.Owner) bool {
	if r.group.members == nil {
		return true
	}
	action, rank := r.group.members.Decide(key, holder)
	return action == placement.Claim && rank == 0
}

// Accepts reports whether this instance accepts an offer, also of a subscription that it would not request
// any more: nobody serves it, and a member that should rather hold it will request it. An instance that is
// to hold nothing accepts none; the holder reclaims it.
func (r *Rebalancer) Accepts(key string) bool {
	return r.group.members != nil && r.group.members.HasShare() && r.sender.outgoing[key] == nil
}

// Offered is how many subscriptions are offered to others, and not seen registered by them.
func (r *Rebalancer) Offered() int { return len(r.sender.offers) }

// State says where a subscription is on its way.
type State uint8

// The states.
const (
	Still      State = iota // it is on no way
	Waiting                 // this instance claims or requests it when its turn comes
	Requesting              // this instance requests it, or is about to
	Releasing               // this instance gives it up
)

// StateOf tells where a subscription is on its way, and when it is looked at again if nothing happens
// before; zero: not.
func (r *Rebalancer) StateOf(key string) (State, time.Time) {
	if r.sender.outgoing[key] != nil {
		return Releasing, time.Time{}
	}
	switch in := r.receiver.incoming[key]; {
	case in == nil:
		return Still, time.Time{}
	case in.request != none:
		return Requesting, in.at
	case !in.at.IsZero():
		return Waiting, in.at
	default:
		return Still, time.Time{}
	}
}
