package proxy

import (
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Proxy is one subscription's state. It is a plain value owned by its store's loop; Step is the only way it
// changes.
type Proxy struct {
	subscription.Subscription

	// What the bucket is known to hold for the key.
	Known       bool                // something was seen or written for the key
	Mine        bool                // the last record seen is this instance's, and its incarnation stands
	Revision    uint64              // last revision seen or written, markers included
	Incarnation uint64              // highest seen
	Claim       uint64              // highest that this instance wrote, or tried to write over a record that it knew
	Holder      *registration.Owner // who was seen to hold the subscription, while this instance does not; nil: nobody

	// The attempt under way, or the last one.
	Attempting bool
	Cause      registration.Cause
	CauseAt    time.Time
	// again is a cause that came while an attempt was under way: one more follows it.
	again      registration.Cause
	againAt    *time.Time
	late       *News       // the newest news of others that came while an attempt was under way
	renewTo    uint64      // the next claim is of this incarnation at least
	HandedOver *HandedOver // where its holder stopped, that handed it over; nil once it is registered, or where none did

	Registered, Verified bool
	Standby              bool // another instance holds the subscription, or is to
	Stopped              bool
	Started              bool
	settled              bool // the first timer interval after a success is over
	voided               bool // the bucket was found to be new while an attempt was under way
	Hindered             bool // its events don't come, or don't move on; the loop knows why

	Failures    int
	Breaker     breaker.Breaker
	Health      breaker.Health
	HeldSince   time.Time // when this instance began to hold the subscription; zero: it does not
	LastSuccess time.Time
	LastError   string
	Refusal     string // why the sink takes no events; empty: it does
	Latency     time.Duration
	Next        time.Time // of the next attempt if nothing happens before; zero: none
}

// NextIncarnation is what an attempt made now would write: the same while this instance holds the record,
// else one more than the highest seen.
func (p *Proxy) NextIncarnation() uint64 {
	if p.Mine {
		return max(p.Incarnation, p.renewTo)
	}
	return max(p.Incarnation+1, p.renewTo)
}

// NewProxy is a subscription's proxy before its start.
func NewProxy(s subscription.Subscription) Proxy {
	return Proxy{Subscription: s, Health: breaker.Unknown}
}

// Step applies one input.
func (p *Proxy) Step(in Input, now time.Time, s *Settings) Effects {
	if in.Kind == Reconfigured {
		p.StartVersion, p.OnGap = in.Subscription.StartVersion, in.Subscription.OnGap
		return Effects{}
	}
	if p.Stopped {
		return p.finishStopped(in)
	}
	switch in.Kind {
	case Start:
		p.Started, p.Known = true, p.Known || in.Level
		return p.attempt(registration.Initial, in.SeenAt)
	case Event:
		return p.event(in)
	case Due:
		return p.due(now, s)
	case Finished:
		return p.finish(in, now, s)
	case Seen:
		return p.seen(in.News, now, s)
	case Voided:
		p.void()
		p.voided = p.Attempting
		return p.mend(now, s)
	case Restart:
		if p.Standby {
			return Effects{}
		}
		if in.HandedOver != nil && !p.Attempting { // else what is written first is of the run before
			p.HandedOver = in.HandedOver
		}
		p.renewTo, p.settled = p.NextIncarnation()+1, false
		p.Breaker, p.Failures, p.LastError, p.Refusal = breaker.Breaker{}, 0, "", "" // the sink will tell anew
		return p.event(Input{Cause: registration.Manual, SeenAt: in.SeenAt})
	case Assigned:
		return p.assigned(now, s)
	case Unassigned:
		return p.unassigned()
	case Offered:
		return p.acceptOffer(in.News, now, s)
	case Delivering:
		p.Refusal = in.Reason
		return p.delivering(s)
	case Hindering:
		p.Hindered = in.Reason != ""
		return p.delivering(s)
	case Respelled:
		p.renewTo = max(p.renewTo, in.News.Incarnation+1)
		return Effects{}
	case Rescheduled:
		if next := now.Add(backoff.Spread(s.NormalInterval, in.Jitter)); p.Failures == 0 && p.Next.After(next) {
			p.Next = next
		}
		return Effects{}
	case Stop:
		p.Stopped, p.Next = true, time.Time{}
		return Effects{Release: p.Registered && p.Mine && !p.Standby}
	default: // Retired
		p.Stopped, p.Attempting, p.Next = true, false, time.Time{}
		return p.standBy(&in.News.Owner)
	}
}

// event is news: an attempt at once, through an open breaker too, because the cluster is alive. While an
// attempt is under way it causes exactly one more.
func (p *Proxy) event(in Input) Effects {
	switch {
	case p.Standby || !p.Started:
		return Effects{}
	case p.Attempting:
		if p.again == "" {
			at := in.SeenAt
			p.again, p.againAt = in.Cause, &at
		}
		return Effects{}
	default:
		p.Breaker.Probe()
		return p.attempt(in.Cause, in.SeenAt)
	}
}

// due is the timer: a retry after a failure, else the fallback for when nothing was heard.
func (p *Proxy) due(now time.Time, s *Settings) Effects {
	if p.Attempting || p.Standby || p.Next.IsZero() || now.Before(p.Next) {
		return Effects{}
	}
	if p.Failures > 0 {
		return p.attempt(registration.Retry, now)
	}
	p.settled = true
	return p.attempt(registration.Timer, now)
}

// refusedWait is when an attempt is tried again that the breaker refused although it was due. The breaker's
// time-out ends just before the attempt is due, so this only happens where clocks jump.
const refusedWait = 100 * time.Millisecond

func (p *Proxy) attempt(cause registration.Cause, seenAt time.Time) Effects {
	if !p.Breaker.Allow() {
		p.Next = seenAt.Add(refusedWait)
		return Effects{}
	}
	p.Attempting, p.Cause, p.CauseAt = true, cause, seenAt
	return Effects{Attempt: true}
}

func (p *Proxy) finish(in Input, now time.Time, s *Settings) Effects {
	if !p.Attempting {
		return Effects{}
	}
	p.Attempting = false
	o := in.Outcome
	var fx Effects
	switch {
	case o.Superseded:
		p.Known, p.Revision, p.Incarnation = true, o.Revision, max(p.Incarnation, o.Incarnation)
		fx = p.standBy(&o.By)
	case o.Err != nil:
		fx = p.fail(o, now, s, in.Jitter)
	default:
		fx = p.succeed(o, now, s, in.Jitter)
	}
	if p.voided {
		// Whatever the attempt knew was the old bucket's; the one that follows finds out.
		p.voided = false
		p.void()
	}
	if late := p.late; late != nil {
		p.late = nil
		if fx = fx.and(p.seen(*late, now, s)); fx.Attempt || p.Standby {
			p.again = ""
			return fx
		}
	}
	if cause := p.again; cause != "" {
		p.again = ""
		p.Breaker.Probe()
		fx.Attempt = p.attempt(cause, *p.againAt).Attempt
	}
	return fx
}

// finishStopped is for the attempt that was under way when the proxy was stopped: what it has written, or
// may have written, is released.
func (p *Proxy) finishStopped(in Input) Effects {
	if in.Kind != Finished || !p.Attempting {
		return Effects{}
	}
	p.Attempting = false
	o := in.Outcome
	if o.Superseded || p.Standby {
		return Effects{}
	}
	p.Claim, p.Revision = max(p.Claim, o.Incarnation), max(p.Revision, o.Revision)
	return Effects{Release: true}
}

// void forgets what the bucket held.
func (p *Proxy) void() {
	p.Known, p.Revision, p.Claim, p.Registered, p.Verified, p.late = false, 0, 0, false, false, nil
}

func (p *Proxy) succeed(o Outcome, now time.Time, s *Settings, jitter float64) Effects {
	p.Breaker.Success()
	p.hold(o)
	p.Verified = o.Verified
	p.Failures, p.LastError, p.HandedOver = 0, "", nil
	p.LastSuccess, p.Latency = o.At, o.At.Sub(p.CauseAt)
	interval := s.NormalInterval
	if !p.settled {
		interval = s.InitialInterval
	}
	p.Next = now.Add(backoff.Spread(interval, jitter))
	return p.become(p.well(), Soon)
}

// well is the health of a proxy that is registered: a subscriber that takes no events, or events that don't
// come, make it degraded.
func (p *Proxy) well() breaker.Health {
	if p.Refusal != "" || p.Hindered {
		return breaker.Degraded
	}
	return breaker.Healthy
}

// Trouble is what is wrong with the proxy itself; empty: nothing.
func (p *Proxy) Trouble() string {
	if p.LastError != "" {
		return p.LastError
	}
	return p.Refusal
}

// delivering follows whether events come and the sink takes them. That says nothing about the registration,
// so the breaker is left alone.
func (p *Proxy) delivering(s *Settings) Effects {
	if p.Standby || p.LastSuccess.IsZero() || s.Breaker.Health(p.Failures) != breaker.Healthy {
		return Effects{Publish: Soon}
	}
	return p.become(p.well(), Soon)
}

// hold notes that the bucket has this instance's record.
func (p *Proxy) hold(o Outcome) {
	if p.HeldSince.IsZero() {
		p.HeldSince = o.At
	}
	p.Known, p.Mine, p.Registered = true, true, true
	p.Revision, p.Incarnation, p.Claim = o.Revision, o.Incarnation, o.Incarnation
}

func (p *Proxy) fail(o Outcome, now time.Time, s *Settings, jitter float64) Effects {
	p.Failures++
	p.LastError = o.Err.Error()
	p.Verified = false
	switch {
	case o.Written:
		p.hold(o)
		p.Registered = !o.Missing
	case o.Known:
		p.raiseClaim(o.FoundIncarnation)
		p.Known, p.Claim, p.Revision = true, max(p.Claim, o.Incarnation), o.Revision
		p.Registered = p.Registered && !o.Missing
	}
	wait := s.Breaker.Backoff(p.Failures, jitter)
	p.Breaker.Failure(&s.Breaker, wait)
	p.Next = now.Add(wait)
	h := s.Breaker.Health(p.Failures)
	if h == breaker.Healthy && (p.Health == breaker.Degraded || p.Health == breaker.Failed) {
		h = p.Health // a restart forgets failures, but only a success makes healthy again
	}
	if h == breaker.Healthy {
		h = p.well()
	}
	return p.become(h, Soon)
}

// seen follows the bucket. Only what is newer than the last revision known is news; a record of this
// instance is what it wrote, unless it comes when nothing is being written: then it was written late, or by
// hand.
func (p *Proxy) seen(n News, now time.Time, s *Settings) Effects {
	switch {
	case n.Revision <= p.Revision:
		return Effects{}
	case p.Attempting && n.Mine:
		return Effects{} // the outcome will tell
	case p.Attempting:
		// The attempt may write over it, or lose to it; only its outcome tells which came last.
		p.late = &n
		return Effects{}
	}
	// The first record seen is what was there when this instance came, and it is here to replace it. Later
	// ones are the claims of others who are about, against this one's own; of two that are equal, the one
	// in the bucket won.
	superseded := p.Known && n.Readable && !n.Mine && (n.Incarnation > p.Claim || n.Incarnation == p.Claim && !p.Mine)
	if n.Readable && !n.Mine && !superseded {
		p.raiseClaim(n.Incarnation)
	}
	p.Known, p.Revision = true, n.Revision
	p.Incarnation = max(p.Incarnation, n.Incarnation)
	if n.Removed && n.Incarnation > 0 {
		p.renewTo = max(p.renewTo, n.Incarnation+1) // it was released: whoever has it next is another incarnation
	}
	switch {
	case !p.Started:
		p.Mine, p.Holder = n.Mine, n.Holder()
		return Effects{}
	case p.Standby && n.Readable && !n.Mine:
		if p.Holder == nil || p.Holder.ID != n.Owner.ID {
			p.Holder = n.Holder() // which tells about itself
		}
		return Effects{}
	case superseded:
		return p.standBy(n.Holder())
	case !p.Mine && !p.Standby && n.Readable && !n.Mine:
		return Effects{} // the attempt that is due will replace it
	case p.Failures > 0 && !p.Standby && n.Mine:
		// What a failed attempt wrote, after all. It is not verified, and the retry is due as it was: were
		// it taken for lost, a bucket that acknowledges late would be written to all the more.
		p.Mine, p.Registered, p.Incarnation = true, true, max(p.Incarnation, p.Claim)
		return Effects{Publish: Soon}
	}
	p.Registered, p.Verified = false, false
	return p.mend(now, s)
}

// raiseClaim makes the next claim higher than another instance's equal one that is mended. Two that both
// hold the record of an equal incarnation, as a purge of the bucket between their writes has it, would
// write over each other for ever.
func (p *Proxy) raiseClaim(incarnation uint64) {
	if p.Mine && incarnation > 0 && incarnation == p.Claim {
		p.renewTo = max(p.renewTo, incarnation+1)
	}
}

// mend registers again what was deleted, expired, overwritten or voided. What another instance held is then
// free: whose turn it is to take it is not for the proxy to know (Assigned).
func (p *Proxy) mend(now time.Time, s *Settings) Effects {
	switch {
	case !p.Started:
		return Effects{}
	case p.Standby:
		p.Holder = nil
		return Effects{}
	default:
		return p.renew(registration.Lost, now, s)
	}
}

// assigned takes what nobody holds.
func (p *Proxy) assigned(now time.Time, s *Settings) Effects {
	if !p.Standby {
		return Effects{}
	}
	// The first interval is for a store that is perhaps only starting. Where another instance held this one
	// it is not; and as many writes as moved would follow each move, and make the next ones slow.
	p.Standby, p.settled = false, true
	return p.renew(registration.Takeover, now, s)
}

// acceptOffer claims what its holder offers to this instance. It is as if the record had been deleted, but
// that it stands until this instance writes over it.
func (p *Proxy) acceptOffer(n News, now time.Time, s *Settings) Effects {
	if !p.Standby || p.Holder == nil || p.Holder.ID != n.Owner.ID || n.Revision < p.Revision {
		return Effects{} // it is another's since
	}
	p.Known, p.Revision, p.Holder = true, n.Revision, nil
	p.Incarnation, p.renewTo = max(p.Incarnation, n.Incarnation), max(p.renewTo, n.Incarnation+1)
	fx := p.assigned(now, s)
	p.HandedOver = &HandedOver{n.Place, n.Revision}
	return fx
}

// HandedOver is what the holder of a subscription says when it hands it over.
type HandedOver struct {
	At       registration.Position // where it stopped
	Revision uint64                // of its record: where somebody wrote since, At says nothing
}

// unassigned leaves the subscription to another instance.
func (p *Proxy) unassigned() Effects {
	if p.Started && (p.Standby || p.Attempting) {
		return Effects{}
	}
	holder := p.Holder
	if p.Started {
		holder = nil
	}
	held := p.Registered && p.Mine
	p.Started = true
	fx := p.standBy(holder)
	fx.Superseded, fx.Release = nil, held
	if !held {
		fx.Publish = NotNow // who holds it tells about it
	}
	return fx
}

// renew makes an attempt for what is no longer in the bucket.
func (p *Proxy) renew(cause registration.Cause, now time.Time, s *Settings) Effects {
	if !s.EventDriven {
		if p.Next.IsZero() {
			p.Next = now.Add(s.NormalInterval)
		}
		return Effects{Publish: Soon}
	}
	fx := p.event(Input{Cause: cause, SeenAt: now})
	fx.Publish = Soon
	return fx
}

// standBy leaves the subscription to its holder; nil: nobody.
func (p *Proxy) standBy(holder *registration.Owner) Effects {
	already := p.Standby && p.Holder != nil && holder != nil && *p.Holder == *holder
	p.Standby, p.Mine, p.Registered, p.Verified, p.HandedOver = true, false, false, false, nil
	p.Holder, p.HeldSince, p.Next, p.again = holder, time.Time{}, time.Time{}, ""
	p.Breaker, p.Failures, p.LastError, p.Refusal, p.Hindered = breaker.Breaker{}, 0, "", "", false
	if already {
		return Effects{}
	}
	fx := p.become(breaker.Standby, AtOnce)
	fx.Superseded = holder
	return fx
}

func (p *Proxy) become(h breaker.Health, otherwise Urgency) Effects {
	if p.Health == h {
		return Effects{Publish: otherwise}
	}
	p.Health = h
	return Effects{Publish: AtOnce, Entered: h}
}
