package rebalance

import (
	"time"

	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/registration"
)

// Rebalancer is one instance's side of all transfers of a store's subscriptions. It belongs to the
// goroutine that runs the store's loop.
type Rebalancer struct {
	self    registration.Owner
	members *placement.Members // of the store; nil: it is not shared
	latency latencyFloor

	// To this instance (receive.go).
	incoming      map[string]*incoming // by key: what this instance should hold, and does not
	turns         turns
	turnsAgain    time.Time // not before they are looked at again
	claims        []string  // keys that may be claimed now
	requests      []string  // keys that are to be requested, in order
	requested     int       // requests that are sent, and neither answered nor repeated
	accepted      map[string]struct{}
	receiveWindow window // of requested and accepted
	claimSeenAt   time.Time
	rivalry       rivalry

	// From this instance (send.go).
	outgoing    map[string]*outgoing // by key: what this instance gives up
	grants      []Grant              // in order
	granted     map[string]struct{}  // keys in grants
	releasing   int                  // of outgoing: Released or Kept is not noted yet
	unseen      map[string]time.Time // by key: released then, and not seen registered by another
	sendWindow  window               // of releasing and unseen
	offers      []string             // keys of outgoing that are offered, or are to be
	handedOver  int                  // since there were no grants
	transferred []time.Duration      // since the last step
}

// New makes the rebalancer of an instance that shares with nobody.
func New(self registration.Owner) *Rebalancer {
	return &Rebalancer{
		self: self, incoming: map[string]*incoming{}, accepted: map[string]struct{}{}, receiveWindow: newWindow(),
		outgoing: map[string]*outgoing{}, granted: map[string]struct{}{}, unseen: map[string]time.Time{}, sendWindow: newWindow(),
	}
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
		r.setMembers(in.Members)
	case StoodBy:
		r.standBy(in.Key, in.Holder, now)
	case Held:
		r.forget(in.Key)
		r.keepOffer(in.Key)
	case Removed:
		r.forget(in.Key)
		delete(r.accepted, in.Key)
		delete(r.granted, in.Key)
		delete(r.unseen, in.Key)
	case Seen:
		r.seen(in, now)
	case RivalSeen:
		r.rivalry.observe(now)
	case Requested:
		r.grant(in.Key, *in.Holder)
	case Released:
		r.released(in.Key, in.Draining, now)
	case Kept:
		r.kept(in.Key)
	case Drained:
		r.drained(in.Offer)
	case Reclaimed:
		r.reclaimed(in.Key, now)
	case Accepted:
		r.accepted[in.Key] = struct{}{}
	default: // Registered
		r.registered(in, now)
	}
}

// Step says what to do now.
func (r *Rebalancer) Step(now time.Time) (fx Effects) {
	r.stepTurns(now, &fx)
	r.stepClaims(now, &fx)
	r.stepRequests(now, &fx)
	r.stepGrants(now, &fx)
	r.stepOffers(now, &fx)
	fx.Transferred, r.transferred = r.transferred, nil
	return fx
}

// wakeAt makes sure that the next step is no later.
func (fx *Effects) wakeAt(at time.Time) {
	if fx.Next.IsZero() || at.Before(fx.Next) {
		fx.Next = at
	}
}

// setMembers begins all turns anew.
func (r *Rebalancer) setMembers(members *placement.Members) {
	r.members, r.rivalry = members, rivalry{}
	for _, in := range r.incoming {
		in.since = time.Time{}
	}
}

// Shares reports whether the store is shared with other instances, now or later.
func (r *Rebalancer) Shares() bool { return r.members != nil }

// MayStart reports whether this instance registers a subscription at once that it begins with, and that
// holder (nil: nobody) was seen to hold.
func (r *Rebalancer) MayStart(key string, holder *registration.Owner) bool {
	if r.members == nil {
		return true
	}
	action, rank := r.members.Decide(key, holder)
	return action == placement.Claim && rank == 0
}

// Accepts reports whether this instance accepts an offer, also of a subscription that it would not request
// any more: nobody serves it, and a member that should rather hold it will request it. An instance that is
// to hold nothing accepts none; the holder reclaims it.
func (r *Rebalancer) Accepts(key string) bool {
	return r.members != nil && r.members.HasShare() && r.outgoing[key] == nil
}

// Offered is how many subscriptions are offered to others, and not seen registered by them.
func (r *Rebalancer) Offered() int { return len(r.offers) }

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
	if r.outgoing[key] != nil {
		return Releasing, time.Time{}
	}
	switch in := r.incoming[key]; {
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
