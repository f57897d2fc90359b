package proxy

import (
	"context"
	"encoding/json"
	"time"

	"github.com/exesdb/subproxy/pkg/health"
	"github.com/exesdb/subproxy/pkg/payload"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/registration"
)

const (
	// turn is what each member leaves those ahead of it to take a subscription before it tries. They need milliseconds, unless
	// they do not know the subscription.
	turn = time.Second
	// askAgain is when a holder is asked again. It may not yet see the members that the one who asks sees.
	askAgain = 250 * time.Millisecond
)

// Share tells who the subscriptions are shared with, at the start and whenever that is another.
func (s *Supervisor) Share(members []placement.Member, lives func(registration.Owner) placement.Liveness) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.members.Store(placement.NewMembers(s.owner, members, lives))
	for _, l := range s.loops {
		l.inbox.ask(request{do: (*loop).considerAll})
	}
}

// HandOver passes on that another instance asks for subscriptions that this one may hold.
func (s *Supervisor) HandOver(r health.HandOver) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if l := s.loops[r.Store]; l != nil {
		l.inbox.ask(request{do: func(l *loop, _ time.Time) { l.promise(&r) }})
	}
}

// drainLook is how often Drain looks whether all is gone, and drainQuiet how long nothing has moved when it gives up: who else
// knows a subscription, and has several members ahead, takes its turn only then.
const (
	drainLook  = 10 * time.Millisecond
	drainQuiet = 2*turn + turn/2
)

// Drain waits until others hold what this instance held, after they were told that it drains (Share). It returns before where
// nobody is there to take it, or none was taken for a while, and when ctx ends.
func (s *Supervisor) Drain(ctx context.Context) {
	look := time.NewTicker(drainLook)
	defer look.Stop()
	held, at := -1, time.Now()
	for {
		n, err := s.leaves(ctx)
		if n != held {
			held, at = n, time.Now()
		}
		if n == 0 || err != nil || !s.sharedWithOthers() || time.Since(at) > drainQuiet {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// leaves is how many subscriptions this instance holds, or finishes with, or has left to another that has not registered them yet.
func (s *Supervisor) leaves(ctx context.Context) (n int, err error) {
	counts, err := gather(ctx, s, "", func(l *loop, _ time.Time) []int { return []int{len(l.held("")) + len(l.releases) + len(l.given)} })
	for _, c := range counts {
		n += c
	}
	return n, err
}

// sharedWithOthers reports whether anybody else is there to take any of what this instance holds.
func (s *Supervisor) sharedWithOthers() bool {
	m := s.members.Load()
	if m == nil {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for store := range s.loops {
		if m.Of(store).HasOthers() {
			return true
		}
	}
	return false
}

// peers are those that the store is shared with; nil: nobody shares.
func (l *loop) peers() *placement.Members {
	if all := l.members.Load(); all != l.peersFrom {
		l.peersFrom, l.peersOf = all, all.Of(l.store)
	}
	return l.peersOf
}

// start begins with a proxy: it is registered, or it stands by where another instance is to hold the subscription.
func (l *loop) start(it *item, now time.Time) {
	if m := l.peers(); m != nil {
		if action, rank := m.Decide(it.key, it.proxy.Holder); action != placement.Claim || rank > 0 {
			l.step(it, Input{Kind: Unassigned}, now)
			l.settleActions(it, now)
			return
		}
	}
	l.step(it, Input{Kind: Start, SeenAt: now, Level: l.level.Load()}, now)
}

// considerAll is for when the members are others than before: all turns begin anew.
func (l *loop) considerAll(now time.Time) {
	l.rival = rival{}
	for i, it := range l.items {
		if it.proxy.Standby {
			if it.way != nil {
				it.way.since = time.Time{}
			}
			l.consider(it, now)
			l.due.schedule(it)
		}
		l.breathe(i)
	}
}

// rival is another run of this instance's name, which took what this one held. While sessions do not tell which of the two is to
// end, because their bucket has no leader, each would take it back from the other for ever. So each waits twice as long each time.
type rival struct {
	times int
	at    time.Time
}

// mostRivalry bounds the wait to 64 turns.
const mostRivalry = 7

// took notes that it took something. What it takes within a turn it takes at once.
func (r *rival) took(now time.Time) {
	if now.Sub(r.at) >= turn {
		r.times, r.at = min(r.times+1, mostRivalry), now
	}
}

func (r *rival) wait() time.Duration { return turn << max(r.times-1, 0) }

// consider decides what to do about a subscription that this instance does not hold.
func (l *loop) consider(it *item, now time.Time) {
	p := &it.proxy
	if it.removed || it.way.released() || !p.Standby || p.Stopped {
		return
	}
	action, rank := placement.Claim, 0
	if m := l.peers(); m != nil {
		action, rank = m.Decide(it.key, p.Holder)
	} else if p.Holder != nil {
		action = placement.Leave
	}
	if action == placement.Leave {
		l.stays(it)
		p.Next = time.Time{}
		return
	}
	if it.way == nil {
		it.way = &way{}
	}
	if it.way.since.IsZero() || it.way.holder != p.Holder {
		l.unask(it)
		it.way.since, it.way.holder = now, p.Holder
	}
	begins := it.way.since
	if rank > 0 && l.takenAt.After(begins) {
		begins = l.takenAt // those ahead are at it; of many, this one may be their last
	}
	at := begins.Add(time.Duration(rank) * turn)
	if p.Holder != nil && p.Holder.Name == l.owner.Name {
		at = at.Add(l.rival.wait()) // of two runs of one name that are about, the one that is to end hears of it before
	}
	switch {
	case now.Before(at):
		l.unask(it)
		p.Next = at
	case action == placement.Claim:
		l.metrics.Moves.WithLabelValues("claimed").Inc()
		l.step(it, Input{Kind: Assigned}, now)
	case it.way.plea == none, it.way.plea == sent && !now.Before(p.Next): // never asked for, or in vain
		l.unask(it)
		it.way.plea, p.Next = waiting, time.Time{}
		if len(l.wanted) == 0 && l.pleas+l.takes == 0 {
			l.appetite.begin()
		}
		l.wanted = append(l.wanted, it)
	}
}

// moving says how a subscription is on its way.
func (it *item) moving() health.Moving {
	switch p := &it.proxy; {
	case it.way.released():
		return health.Releasing
	case p.Standby && it.way != nil && it.way.plea != none:
		return health.Asking
	case p.Standby && !p.Next.IsZero():
		return health.Waiting
	case p.Attempting && p.Cause == registration.Takeover && !p.Registered:
		return health.Claiming
	default:
		return ""
	}
}

// idle reports whether this instance has nothing to do with the subscription but to stand by.
func (it *item) idle() bool {
	return it.proxy.Standby && it.proxy.Holder != nil && it.moving() == ""
}

// way is a subscription's from one instance to another, as one of the two sees it. Few are on their way at once.
type way struct {
	leaving time.Time // when this instance began to give it up; zero: it does not
	// It suits this instance better than its holder (nil: nobody) since then, and this is how far it is with asking for it.
	since  time.Time
	holder *registration.Owner
	plea   plea
}

// released reports whether this instance is about to give it up.
func (w *way) released() bool { return w != nil && !w.leaving.IsZero() }

// plea is how far an instance is with asking for a subscription.
type plea uint8

const (
	none    plea = iota
	waiting      // in loop.wanted
	sent         // and counted in loop.pleas
)

// unask takes back that a subscription's holder is to be asked, or was.
func (l *loop) unask(it *item) {
	if it.way == nil {
		return
	}
	if it.way.plea == sent {
		l.pleas--
	}
	it.way.plea = none
}

// stays notes that the subscription is not on its way any more.
func (l *loop) stays(it *item) {
	l.unask(it)
	it.way = nil
}

// ask asks holders for what this instance is to hold: no more at once than it registers in good time, since all holders together
// would else leave it more than that.
func (l *loop) ask(now time.Time) {
	if len(l.wanted) == 0 || l.pleas+l.takes >= l.appetite.window {
		return
	}
	names := map[registration.Owner][]string{}
	n := 0
	for _, it := range l.wanted {
		if l.pleas+l.takes >= l.appetite.window {
			break
		}
		n++
		p := &it.proxy
		if it.removed || p.Stopped || it.way == nil || it.way.plea != waiting || p.Holder == nil {
			continue // it was settled meanwhile, or stands here twice
		}
		it.way.plea, p.Next = sent, now.Add(askAgain)
		l.pleas++
		l.due.schedule(it)
		names[*p.Holder] = append(names[*p.Holder], p.Name)
	}
	if l.wanted = l.wanted[n:]; len(l.wanted) == 0 {
		l.wanted = nil
	}
	for holder, all := range names {
		for _, some := range payload.Parts(all, len(all), l.room(), func(name *string) int { return payload.Text(*name) }) {
			r := health.HandOver{Envelope: health.NewEnvelope(health.HandOverType, now), Store: l.store, Names: some, To: l.owner}
			data, err := json.Marshal(r)
			if err == nil {
				err = l.publisher(health.HandOverSubject(holder.ID), data)
			}
			if err != nil {
				l.untold(health.HandOverSubject(holder.ID), err) // it will be asked again
			}
		}
	}
}
