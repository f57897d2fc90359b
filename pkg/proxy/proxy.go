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

	Record     Record
	Attempt    Attempt
	HandedOver *HandedOver // where its holder stopped, that handed it over; nil once it is registered, or where none did

	Registered, Verified bool
	Standby              bool // another instance holds the subscription, or is to
	Stopped              bool
	Started              bool
	settled              bool // the first timer interval after a success is over
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
		p.Started, p.Record.Known = true, p.Record.Known || in.Level
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
		p.Attempt.voided = p.Attempt.UnderWay
		return p.mend(now, s)
	case Restart:
		if p.Standby {
			return Effects{}
		}
		if in.HandedOver != nil && !p.Attempt.UnderWay { // else what is written first is of the run before
			p.HandedOver = in.HandedOver
		}
		p.Record.renewTo, p.settled = p.Record.NextIncarnation()+1, false
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
		p.Record.renewTo = max(p.Record.renewTo, in.News.Incarnation+1)
		return Effects{}
	case Rescheduled:
		if next := now.Add(backoff.Spread(s.NormalInterval, in.Jitter)); p.Failures == 0 && p.Next.After(next) {
			p.Next = next
		}
		return Effects{}
	case Stop:
		p.Stopped, p.Next = true, time.Time{}
		return Effects{Release: p.Registered && p.Record.Mine && !p.Standby}
	default: // Retired
		p.Stopped, p.Attempt.UnderWay, p.Next = true, false, time.Time{}
		return p.standBy(&in.News.Owner)
	}
}

// event is news: an attempt at once, through an open breaker too, because the cluster is alive. While an
// attempt is under way it causes exactly one more.
func (p *Proxy) event(in Input) Effects {
	switch {
	case p.Standby || !p.Started:
		return Effects{}
	case p.Attempt.UnderWay:
		if p.Attempt.again == "" {
			at := in.SeenAt
			p.Attempt.again, p.Attempt.againAt = in.Cause, &at
		}
		return Effects{}
	default:
		p.Breaker.Probe()
		return p.attempt(in.Cause, in.SeenAt)
	}
}

// due is the timer: a retry after a failure, else the fallback for when nothing was heard.
func (p *Proxy) due(now time.Time, s *Settings) Effects {
	if p.Attempt.UnderWay || p.Standby || p.Next.IsZero() || now.Before(p.Next) {
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
	p.Attempt.UnderWay, p.Attempt.Cause, p.Attempt.CauseAt = true, cause, seenAt
	return Effects{Attempt: true}
}

func (p *Proxy) finish(in Input, now time.Time, s *Settings) Effects {
	if !p.Attempt.UnderWay {
		return Effects{}
	}
	p.Attempt.UnderWay = false
	o := in.Outcome
	var fx Effects
	switch {
	case o.Superseded:
		p.Record.Known, p.Record.Revision, p.Record.Incarnation = true, o.Revision, max(p.Record.Incarnation, o.Incarnation)
		fx = p.standBy(&o.By)
	case o.Err != nil:
		fx = p.fail(o, now, s, in.Jitter)
	default:
		fx = p.succeed(o, now, s, in.Jitter)
	}
	if p.Attempt.voided {
		// Whatever the attempt knew was the old bucket's; the one that follows finds out.
		p.Attempt.voided = false
		p.void()
	}
	if late := p.Attempt.late; late != nil {
		p.Attempt.late = nil
		if fx = fx.and(p.seen(*late, now, s)); fx.Attempt || p.Standby {
			p.Attempt.again = ""
			return fx
		}
	}
	if cause := p.Attempt.again; cause != "" {
		p.Attempt.again = ""
		p.Breaker.Probe()
		fx.Attempt = p.attempt(cause, *p.Attempt.againAt).Attempt
	}
	return fx
}

// finishStopped is for the attempt that was under way when the proxy was stopped: what it has written, or
// may have written, is released.
func (p *Proxy) finishStopped(in Input) Effects {
	if in.Kind != Finished || !p.Attempt.UnderWay {
		return Effects{}
	}
	p.Attempt.UnderWay = false
	o := in.Outcome
	if o.Superseded || p.Standby {
		return Effects{}
	}
	p.Record.Claim, p.Record.Revision = max(p.Record.Claim, o.Incarnation), max(p.Record.Revision, o.Revision)
	return Effects{Release: true}
}

// void forgets what the bucket held.
func (p *Proxy) void() {
	p.Record.Known, p.Record.Revision, p.Record.Claim, p.Registered, p.Verified, p.Attempt.late = false, 0, 0, false, false, nil
}

func (p *Proxy) succeed(o Outcome, now time.Time, s *Settings, jitter float64) Effects {
	p.Breaker.Success()
	p.hold(o)
	p.Verified = o.Verified
	p.Failures, p.LastError, p.HandedOver = 0, "", nil
	p.LastSuccess, p.Latency = o.At, o.At.Sub(p.Attempt.CauseAt)
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
	p.Record.Known, p.Record.Mine, p.Registered = true, true, true
	p.Record.Revision, p.Record.Incarnation, p.Record.Claim = o.Revision, o.Incarnation, o.Incarnation
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
		p.Record.raiseClaim(o.FoundIncarnation)
		p.Record.Known, p.Record.Claim, p.Record.Revision = true, max(p.Record.Claim, o.Incarnation), o.Revision
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
	case n.Revision <= p.Record.Revision:
		return Effects{}
	case p.Attempt.UnderWay && n.Mine:
		return Effects{} // the outcome will tell
	case p.Attempt.UnderWay:
		// The attempt may write over it, or lose to it; only its outcome tells which came last.
		p.Attempt.late = &n
		return Effects{}
	}
	superseded := p.Record.supersededBy(&n)
	if n.Readable && !n.Mine && !superseded {
		p.Record.raiseClaim(n.Incarnation)
	}
	p.Record.Known, p.Record.Revision = true, n.Revision
	p.Record.Incarnation = max(p.Record.Incarnation, n.Incarnation)
	if n.Removed && n.Incarnation > 0 {
		p.Record.renewTo = max(p.Record.renewTo, n.Incarnation+1) // it was released: whoever has it next is another incarnation
	}
	switch {
	case !p.Started:
		p.Record.Mine, p.Record.Holder = n.Mine, n.Holder()
		return Effects{}
	case p.Standby && n.Readable && !n.Mine:
		if p.Record.Holder == nil || p.Record.Holder.ID != n.Owner.ID {
			p.Record.Holder = n.Holder() // which tells about itself
		}
		return Effects{}
	case superseded:
		return p.standBy(n.Holder())
	case !p.Record.Mine && !p.Standby && n.Readable && !n.Mine:
		return Effects{} // the attempt that is due will replace it
	case p.Failures > 0 && !p.Standby && n.Mine:
		// What a failed attempt wrote, after all. It is not verified, and the retry is due as it was: were
		// it taken for lost, a bucket that acknowledges late would be written to all the more.
		p.Record.Mine, p.Registered, p.Record.Incarnation = true, true, max(p.Record.Incarnation, p.Record.Claim)
		return Effects{Publish: Soon}
	}
	p.Registered, p.Verified = false, false
	return p.mend(now, s)
}

// mend registers again what was deleted, expired, overwritten or voided. What another instance held is then
// free: whose turn it is to take it is not for the proxy to know (Assigned).
func (p *Proxy) mend(now time.Time, s *Settings) Effects {
	switch {
	case !p.Started:
		return Effects{}
	case p.Standby:
		p.Record.Holder = nil
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
	if !p.Standby || p.Record.Holder == nil || p.Record.Holder.ID != n.Owner.ID || n.Revision < p.Record.Revision {
		return Effects{} // it is another's since
	}
	p.Record.Known, p.Record.Revision, p.Record.Holder = true, n.Revision, nil
	p.Record.Incarnation, p.Record.renewTo = max(p.Record.Incarnation, n.Incarnation), max(p.Record.renewTo, n.Incarnation+1)
	fx := p.assigned(now, s)
	p.HandedOver = &HandedOver{n.Place, n.Revision}
	return fx
}

// unassigned leaves the subscription to another instance.
func (p *Proxy) unassigned() Effects {
	if p.Started && (p.Standby || p.Attempt.UnderWay) {
		return Effects{}
	}
	holder := p.Record.Holder
	if p.Started {
		holder = nil
	}
	held := p.Registered && p.Record.Mine
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
	already := p.Standby && p.Record.Holder != nil && holder != nil && *p.Record.Holder == *holder
	p.Standby, p.Record.Mine, p.Registered, p.Verified, p.HandedOver = true, false, false, false, nil
	p.Record.Holder, p.HeldSince, p.Next, p.Attempt.again = holder, time.Time{}, time.Time{}, ""
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
