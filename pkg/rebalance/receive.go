package rebalance

import (
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/registration"
)

const (
	// Turn is what each member leaves those of lower rank to claim or request a subscription before it
	// does. They need milliseconds, unless they do not know the subscription.
	Turn = time.Second
	// requestAgain is when a holder is asked again. It may not see the members yet that the one who asks
	// sees.
	requestAgain = 250 * time.Millisecond
)

// incoming is a subscription that this instance should hold rather than its holder, or that nobody holds.
type incoming struct {
	holder   *registration.Owner // nil: nobody
	since    time.Time           // when it began to be so; zero: turns begin anew
	at       time.Time           // of its turn, or when the request is repeated; zero: nothing is waited for
	request  requestState
	claiming bool // in claims
}

// requestState is how far this instance is with requesting a subscription.
type requestState uint8

const (
	none   requestState = iota
	queued              // in Rebalancer.requests
	sent                // counted in Rebalancer.requested
)

// rivalry is with another run of this instance's name, which claims what this one held. While sessions do
// not tell which of the two is to end, because their bucket has no leader, each would claim it back from
// the other for ever. So each waits twice as long each time, up to 64 turns.
type rivalry struct {
	times int
	at    time.Time
}

var rivalWaits = backoff.Backoff{First: Turn, Max: 64 * Turn}

// observe notes that the other run claimed something. What it claims within a turn it claims at once.
func (v *rivalry) observe(now time.Time) {
	if now.Sub(v.at) >= Turn {
		v.times, v.at = v.times+1, now
	}
}

func (v *rivalry) wait() time.Duration { return rivalWaits.After(v.times) }

// standBy notes who holds a subscription that this instance does not hold. While this instance gives it up
// nothing else is done about it.
func (r *Rebalancer) standBy(key string, holder *registration.Owner, now time.Time) {
	if r.outgoing[key] != nil {
		return
	}
	in := r.incoming[key]
	if in == nil {
		if action, _ := r.decide(key, holder); action == placement.Leave {
			return
		}
		in = &incoming{}
		r.incoming[key] = in
	}
	if in.since.IsZero() || !sameOwner(in.holder, holder) {
		r.cancelRequest(in)
		in.since, in.holder = now, holder
	}
	r.consider(key, in, now)
}

func sameOwner(a, b *registration.Owner) bool {
	return a == b || a != nil && b != nil && *a == *b
}

func (r *Rebalancer) decide(key string, holder *registration.Owner) (placement.Action, int) {
	switch {
	case r.members != nil:
		return r.members.Decide(key, holder)
	case holder != nil:
		return placement.Leave, 0
	default:
		return placement.Claim, 0
	}
}

// judge says what to do about a subscription, and from when on.
func (r *Rebalancer) judge(key string, in *incoming) (action placement.Action, from time.Time) {
	action, rank := r.decide(key, in.holder)
	from = in.since
	if rank > 0 && r.claimSeenAt.After(from) {
		from = r.claimSeenAt // those of lower rank are at it; of many, this one may be their last
	}
	from = from.Add(time.Duration(rank) * Turn)
	if in.holder != nil && in.holder.Name == r.self.Name {
		from = from.Add(r.rivalry.wait()) // of two runs of one name, the one that is to end hears of it before
	}
	return action, from
}

// consider does what is to be done about a subscription: forget it, wait, claim it, or request it.
func (r *Rebalancer) consider(key string, in *incoming, now time.Time) {
	action, from := r.judge(key, in)
	switch {
	case action == placement.Leave:
		r.forget(key)
	case now.Before(from):
		r.cancelRequest(in)
		in.claiming = false
		r.waitUntil(key, in, from)
	case action == placement.Claim:
		r.cancelRequest(in)
		if in.at = (time.Time{}); !in.claiming {
			in.claiming = true
			r.claims = append(r.claims, key)
		}
	case in.request == none, in.request == sent && !now.Before(in.at): // never requested, or in vain
		r.cancelRequest(in)
		in.request, in.claiming, in.at = queued, false, time.Time{}
		if len(r.requests) == 0 && r.receiving() == 0 {
			r.receiveWindow.begin()
		}
		r.requests = append(r.requests, key)
	}
}

func (r *Rebalancer) waitUntil(key string, in *incoming, at time.Time) {
	if !in.at.Equal(at) {
		in.at = at
		r.turns.add(at, key)
	}
}

// receiving is how many are on their way to this instance.
func (r *Rebalancer) receiving() int { return r.requested + len(r.accepted) }

// cancelRequest takes back that the holder is to be asked, or was.
func (r *Rebalancer) cancelRequest(in *incoming) {
	if in.request == sent {
		r.requested--
	}
	in.request = none
}

// forget ends what was to be done to hold a subscription.
func (r *Rebalancer) forget(key string) {
	if in := r.incoming[key]; in != nil {
		r.cancelRequest(in)
		delete(r.incoming, key)
	}
}

// stepTurns looks at the subscriptions whose turn has come, and at those that are to be requested again.
func (r *Rebalancer) stepTurns(now time.Time, fx *Effects) {
	if len(r.turns) == 0 {
		return
	}
	if !now.Before(r.turnsAgain) {
		n := 0
		for t, due := r.turns.due(now); due; t, due = r.turns.due(now) {
			if in := r.incoming[t.key]; in != nil && in.at.Equal(t.at) {
				r.consider(t.key, in, now)
			}
			if n++; n == maxPerStep {
				fx.More = true
				break
			}
		}
		if n > 0 && !fx.More {
			r.turnsAgain = now.Add(turnInterval)
		}
	}
	if len(r.turns) > 0 {
		next := r.turns[0].at
		if next.Before(r.turnsAgain) {
			next = r.turnsAgain
		}
		fx.wakeAt(next)
	}
}

// stepClaims claims what may be claimed still.
func (r *Rebalancer) stepClaims(now time.Time, fx *Effects) {
	n := min(len(r.claims), maxPerStep)
	for _, key := range r.claims[:n] {
		in := r.incoming[key]
		if in == nil || !in.claiming {
			continue // it was settled meanwhile
		}
		in.claiming = false
		if action, from := r.judge(key, in); action != placement.Claim || now.Before(from) {
			r.consider(key, in, now)
			continue
		}
		delete(r.incoming, key)
		fx.Claim = append(fx.Claim, key)
	}
	if r.claims = r.claims[n:]; len(r.claims) == 0 {
		r.claims = nil
	} else {
		fx.More = true
	}
}

// stepRequests asks holders for what this instance should hold: for no more at once than it registers in
// good time, since all holders together would else offer it more than that.
func (r *Rebalancer) stepRequests(now time.Time, fx *Effects) {
	n := 0
	for _, key := range r.requests {
		if r.receiving() >= r.receiveWindow.size {
			break
		}
		n++
		in := r.incoming[key]
		if in == nil || in.request != queued || in.holder == nil {
			continue // it was settled meanwhile, or stands here twice
		}
		in.request = sent
		r.requested++
		r.waitUntil(key, in, now.Add(requestAgain))
		fx.wakeAt(in.at)
		fx.request(*in.holder, key)
	}
	if r.requests = r.requests[n:]; len(r.requests) == 0 {
		r.requests = nil
	}
}

func (fx *Effects) request(holder registration.Owner, key string) {
	i := slices.IndexFunc(fx.Request, func(q Request) bool { return q.Holder == holder })
	if i < 0 {
		i = len(fx.Request)
		fx.Request = append(fx.Request, Request{Holder: holder})
	}
	fx.Request[i].Keys = append(fx.Request[i].Keys, key)
}

// registered notes how long a registration took, and whether it is one that was offered.
func (r *Rebalancer) registered(in Input, now time.Time) {
	if !in.Failed {
		r.latency.observe(in.Took, now)
	}
	if _, offered := r.accepted[in.Key]; !offered {
		return
	}
	delete(r.accepted, in.Key)
	if !in.Failed {
		r.receiveWindow.observe(in.Began, now, r.latency.slow())
	}
}
