package membership

import (
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
)

const (
	// settle is how long a member that came is waited with, for others that come with it.
	settle = 500 * time.Millisecond
	// forget is how long a member that is gone is remembered.
	forget = time.Hour
	// maxFormer is how many former runs of a name are remembered.
	maxFormer = 16
)

// memberState is what is known of one member.
type memberState struct {
	lease.Observation
	member   Member // the last record that could be read
	alive    bool
	eligible bool      // alive, and settled
	since    time.Time // when it came, or went
	// former are the ids of runs before, at most maxFormer. A view may have it, so it is never changed in
	// place.
	former []string
}

// memberRules say which members live. They are a value that does no I/O; one read at a time is made for
// them, answered by an input.
//
// A member whose key is deleted is gone at once. One whose key expired, or that has not renewed for its
// TTL, is gone after the grace, if the bucket's leader says at its begin and at its end that there is
// nothing newer. A read that fails says that JetStream is away: then nobody can renew, and the grace of all
// begins again.
type memberRules struct {
	grace, settle time.Duration
	jitter        func() float64

	members map[string]*memberState // by key
	known   bool                    // the bucket was read
	reading struct {                // the key that is read from the bucket's leader
		key  string // empty: none
		sent time.Time
	}
	notBefore time.Time // pause after a failure
	settleAt  time.Time // when those who came become eligible; zero: there are none
}

func newMemberRules(jitter func() float64) memberRules {
	return memberRules{
		grace: lease.DefaultGrace, settle: settle, jitter: jitter, members: map[string]*memberState{},
	}
}

// memberEffects are what is to be done.
type memberEffects struct {
	lease.Effects
	Changed bool // the view is another
	Notify  bool // which members are eligible, or what their records say, is another
}

// Step takes what happened and says what to do.
func (r *memberRules) Step(in lease.Input, now time.Time) (fx memberEffects) {
	switch in.Kind {
	case lease.EntryHeard:
		r.notBefore = time.Time{} // the bucket lives
		if s := r.members[in.Entry.Key]; s == nil || in.Entry.Revision > s.Revision {
			r.observe(&in.Entry, now, &fx)
		}
	case lease.FeedLevel:
		if !r.known {
			r.known, fx.Changed = true, true
			r.settleAll(&fx)
		}
	case lease.KeysTrimmed:
		for _, s := range r.members {
			if s.State == lease.Present && s.Revision < in.Revision {
				s.doubt()
			}
		}
	case lease.BucketReplaced:
		for _, s := range r.members {
			s.doubt()
		}
	case lease.Answered:
		r.answer(in, now, &fx)
	}
	r.decide(now, &fx)
	fx.Notify = fx.Notify && r.known
	return fx
}

// doubt has a key read whose record vanished without a word.
func (s *memberState) doubt() {
	if s.alive {
		s.Observation = lease.Observation{State: lease.Expired, Heard: s.Heard}
	} else {
		s.Observation = lease.Observation{State: lease.Absent}
	}
}

// observe notes an entry that is newer than what is known of its key.
func (r *memberRules) observe(e *kv.Entry, now time.Time, fx *memberEffects) {
	s := r.members[e.Key]
	before := lease.Absent
	if s != nil {
		before = s.State
	}
	v := lease.Observe(e, before, now)
	var m Member
	if v.State == lease.Present {
		if m, fx.Failed = DecodeMember(e.Key, e.Data); fx.Failed != nil {
			v.State, v.Silent = lease.Expired, now // its holder writes over that, if it lives
		}
	}
	switch {
	case v.State == lease.Present && s == nil:
		s = &memberState{Observation: v}
		r.members[e.Key] = s
		r.renew(s, m, now, fx)
	case s == nil: // it was gone before this process looked
	case v.State == lease.Present:
		s.Observation = v
		r.renew(s, m, now, fx)
	case v.State == lease.Absent:
		s.Observation = v
		r.remove(s, now, fx)
	default:
		s.Observation = v
	}
}

// renew notes a member's record.
func (r *memberRules) renew(s *memberState, m Member, now time.Time, fx *memberEffects) {
	was := s.member
	s.member = m
	if was.ID != "" && was.ID != m.ID {
		s.former = append(slices.Clone(s.former), was.ID)
		s.former = s.former[max(0, len(s.former)-maxFormer):]
	}
	switch {
	case !s.alive:
		// A member that is back before the others could settle without it is eligible at once.
		s.eligible = r.known && m.ID == was.ID && now.Sub(s.since) < r.settle
		s.alive, s.since = true, now
		fx.Changed, fx.Notify = true, fx.Notify || s.eligible
		if !s.eligible && r.settleAt.IsZero() {
			r.settleAt = now.Add(r.settle)
		}
	case m != was:
		if m.ID != was.ID {
			s.since = now
		}
		fx.Changed, fx.Notify = true, fx.Notify || s.eligible
	}
}

// remove notes that a member is gone.
func (r *memberRules) remove(s *memberState, now time.Time, fx *memberEffects) {
	if !s.alive {
		return
	}
	fx.Changed, fx.Notify = true, fx.Notify || s.eligible
	s.alive, s.eligible, s.since = false, false, now
	if fx.Notify {
		r.settleAll(fx) // all is shared anew in any case
	}
}

// settleAll makes all who live eligible.
func (r *memberRules) settleAll(fx *memberEffects) {
	r.settleAt = time.Time{}
	for _, s := range r.members {
		if s.alive && !s.eligible {
			s.eligible, fx.Changed = true, true
		}
	}
	fx.Notify = true
}

func (r *memberRules) answer(in lease.Input, now time.Time, fx *memberEffects) {
	read := r.reading
	r.reading.key = ""
	if in.Err != nil {
		for _, s := range r.members {
			s.Silent = time.Time{}
		}
		r.notBefore, fx.Failed = now.Add(lease.RetryIn(r.grace, r.jitter)), in.Err
		return
	}
	s := r.members[read.key]
	if s == nil || !s.alive {
		return
	}
	switch what := s.Compare(read.sent, in.Found, in.Entry.Revision); {
	case what == lease.Newer:
		r.observe(&in.Entry, now, fx)
	case what == lease.Stale:
	case s.Silent.IsZero() || what == lease.Missing && s.State == lease.Present:
		s.Silent = now
		if what == lease.Missing {
			s.State, s.Revision = lease.Expired, 0
		}
	default:
		s.State = lease.Absent
		r.remove(s, now, fx)
	}
}

// decide says what to do next, from what is known.
func (r *memberRules) decide(now time.Time, fx *memberEffects) {
	if !r.settleAt.IsZero() && !now.Before(r.settleAt) && r.known {
		r.settleAll(fx)
	}
	var due string
	next := now.Add(forget)
	for key, s := range r.members {
		if !s.alive {
			if now.Sub(s.since) >= forget {
				delete(r.members, key)
				fx.Changed = true
			}
			continue
		}
		at, _ := s.Overdue(s.member.ttl(), r.grace) // at either end of the grace the key is read
		if at = lease.Later(at, r.notBefore); at.Before(next) {
			due, next = key, at
		}
	}
	if !r.settleAt.IsZero() {
		fx.Next = r.settleAt
	}
	switch {
	case r.reading.key != "" || due == "": // its answer is the next step
	case !now.Before(next):
		r.reading.key, r.reading.sent = due, now
		fx.Read = due
	case fx.Next.IsZero() || next.Before(fx.Next):
		fx.Next = next
	}
}
