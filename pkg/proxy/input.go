package proxy

import (
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Settings are the numbers of the rules. They can change while proxies run; each decision takes the ones in
// force.
type Settings struct {
	Breaker             breaker.Settings
	InitialInterval     time.Duration // from the first success to the first timer-driven attempt
	NormalInterval      time.Duration // between timer-driven attempts after that
	Verify              bool          // read each registration back
	VerificationTimeout time.Duration
	EventDriven         bool // false: only the timer (and an operator) causes attempts
	HeartbeatInterval   time.Duration
	SummaryInterval     time.Duration
	StalledAfter        time.Duration // behind and no event accepted for so long is a standstill; 0: never
	EmitterSilentAfter  time.Duration // no sign of the store's emitter for so long means that there is none; 0: never
}

// Kind says what an Input is.
type Kind uint8

// The kinds of input.
const (
	Start        Kind = iota // begin to hold the subscription
	Event                    // Cause happened, seen at CauseAt
	Due                      // the time Next has come
	Finished                 // the attempt under way ended with Outcome
	Seen                     // the feed showed News about the key
	Voided                   // the bucket is new: nothing that was known about it stands
	Restart                  // stop and start anew, with a new incarnation, where HandedOver says that the run before stopped
	Reconfigured             // Subscription differs in where it starts, or in what follows a gap
	Rescheduled              // the intervals are others: what is due later than they allow comes forward
	Stop                     // release the registration and do nothing more
	Retired                  // another run of this instance's name took over: do nothing more, release nothing
	Assigned                 // nobody holds the subscription, and it is this instance's turn to
	Unassigned               // another instance is to hold it: release it, where it is held, and stand by
	Offered                  // its holder delivers nothing any more, and offers it to this instance, at News
	Delivering               // the sink takes no events, for Reason; empty: it takes them again
	Respelled                // the subscription has incarnations up to News.Incarnation under another spelling of its key
	Hindering                // events don't come or don't move on, for Reason; empty: they do again
)

// Input is one thing that happens to a proxy.
type Input struct {
	Kind    Kind
	Cause   registration.Cause // of Event
	SeenAt  time.Time          // when the cause was seen
	Level   bool               // of Start: all that the bucket holds was shown before
	Outcome Outcome            // of Finished
	// Subscription is of Reconfigured. Its key is the proxy's.
	Subscription *subscription.Subscription
	HandedOver   *HandedOver // of Restart; nil: nothing was taken
	News         News        // of Seen, Offered and Respelled
	Reason       string      // of Delivering and Hindering
	Jitter       float64     // in [-1, 1), spreads what is scheduled
}

// News is an entry of the bucket, as far as the proxy needs it.
type News struct {
	Revision    uint64
	Removed     bool   // deleted or expired
	Mine        bool   // a record of this instance
	Readable    bool   // a record of somebody
	Incarnation uint64 // of the record; of a removal the highest before, where it says so
	Owner       registration.Owner
	Place       registration.Position // of Offered: where the owner stopped
}

// Holder is who the entry says holds the subscription; nil: nobody.
func (n *News) Holder() *registration.Owner {
	if !n.Readable {
		return nil
	}
	owner := n.Owner
	return &owner
}

// Outcome is how an attempt ended. A nil Err with Superseded false is a success.
type Outcome struct {
	Revision         uint64 // written; after a failure what is known to be there
	Incarnation      uint64 // written, or tried
	Known            bool   // the record that it tried to write over was known
	Written          bool   // acknowledged, whatever came after
	Verified         bool   // read back, not only acknowledged
	At               time.Time
	Err              error
	FoundIncarnation uint64 // of another's record that was read back in its place; 0: none
	Missing          bool   // what was read back is not this instance's record
	Superseded       bool
	By               registration.Owner // who superseded
}

// Urgency says how soon a changed status is to be published.
type Urgency uint8

// The urgencies.
const (
	NotNow Urgency = iota
	Soon           // a detail changed
	AtOnce         // health, or who holds the subscription, changed
)

// Effects are what a step asks for.
type Effects struct {
	Attempt    bool // make the attempt that Cause, Revision and NextIncarnation describe
	Release    bool // give up the record at Revision: delete it, or leave it to who asked for it
	Publish    Urgency
	Entered    breaker.Health      // health changed to this; empty: it did not
	Superseded *registration.Owner // who took the subscription over; nil: nobody
}

// and joins the effects of two steps, the second after the first.
func (fx Effects) and(next Effects) Effects {
	next.Publish = max(fx.Publish, next.Publish)
	if next.Superseded == nil {
		next.Superseded = fx.Superseded
	}
	if next.Entered == "" {
		next.Entered = fx.Entered
	}
	return next
}
