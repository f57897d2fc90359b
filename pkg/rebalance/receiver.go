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

// receiver is an instance's side of what comes to it.
type receiver struct {
	group       *group
	incoming    map[string]*incoming // by key: what this instance should hold, and does not
	turns       turns
	turnsAgain  time.Time           // not before they are looked at again
	claims      []string            // keys that may be claimed now
	requests    []string            // keys that are to be requested, in order
	requested   int                 // requests that are sent, and neither answered nor repeated
	accepted    map[string]struct{} // keys that were offered, and are being registered
	window      window              // of requested and accepted
	claimSeenAt time.Time           // when another member was last seen to claim anything
	rivalry     rivalry
}

func newReceiver(g *group) receiver {
	return receiver{group: g, incoming: map[string]*incoming{}, accepted: map[string]struct{}{}, window: newWindow()}
}

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
	queued              // in receiver.requests
	sent                // counted in receiver.requested
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

// beginAnew begins all turns anew, and forgets the rivalry: the members are others.
func (r *receiver) beginAnew() {
	r.rivalry = rivalry{}
	for _, in := range r.incoming {
		in.since = time.Time{}
	}
}

// standBy notes who holds a subscription that this instance does not hold.
func (r *receiver) standBy(key string, holder *registration.Owner, now time.Time) {
	in := r.incoming[key]
	if in == nil {
		if action, _ := r.group.decide(key, holder); action == placement.Leave {
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

// judge says what to do about a subscription, and from when on.
func (r *receiver) judge(key string, in *incoming) (action placement.Action, from time.Time) {
	action, rank := r.group.decide(key, in.holder)
	from = in.since
	if rank > 0 && r.claimSeenAt.After(from) {
		from = r.claimSeenAt // those of lower rank are at it; of many, this one may be their last
	}
	from = from.Add(time.Duration(rank) * Turn)
	if in.holder != nil && in.holder.Name == r.group.self.Name {
		from = from.Add(r.rivalry.wait()) // of two runs of one name, the one that is to end hears of it before
	}
	return action, from
}

// consider does what is to be done about a subscription: forget it, wait, claim it, or request it.
func (r *receiver) consider(key string, in *incoming, now time.Time) {
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
			r.window.begin()
		}
		r.requests = append(r.requests, key)
	}
}

func (r *receiver) waitUntil(key string, in *incoming, at time.Time) {
	if !in.at.Equal(at) {
		in.at = at
		r.turns.add(at, key)
	}
}

// receiving is how many are on their way to this instance.
func (r *receiver) receiving() int { return r.requested + len(r.accepted) }

// cancelRequest takes back that the holder is to be asked, or was.
func (r *receiver) cancelRequest(in *incoming) {
	if in.request == sent {
		r.requested--
	}
	in.request = none
}

// forget ends what was to be done to hold a subscription.
func (r *receiver) forget(key string) {
	if in := r.incoming[key]; in != nil {
		r.cancelRequest(in)
		delete(r.incoming, key)
	}
}

// stepTurns looks at the subscriptions whose turn has come, and at those that are to be requested again.
func (r *receiver) stepTurns(now time.Time, fx *Effects) {
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
func (r *receiver) stepClaims(now time.Time, fx *Effects) {
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
func (r *receiver) stepRequests(now time.Time, fx *Effects) {
	n := 0
	for _, key := range r.requests {
		if r.receiving() >= r.window.size {
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

// registered notes that an attempt to register what was offered ended.
func (r *receiver) registered(in Input, now time.Time) {
	if _, offered := r.accepted[in.Key]; !offered {
		return
	}
	delete(r.accepted, in.Key)
	if !in.Failed {
		r.window.observe(in.Began, now, r.group.latency.slow())
	}
}
