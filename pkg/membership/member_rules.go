package membership

import (
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
)

// forget is how long a member that is gone is remembered.
const forget = time.Hour

// memberState is what is known of one member.
type memberState struct {
	lease.Observation
	member   Member // the last record that could be read
	alive    bool
	eligible bool      // alive, and settled
	since    time.Time // when it came, or went
	former   []string  // ids of runs before, at most maxFormer; a view may have it, so it is never changed in place
}

// maxFormer is how many former runs of a name are remembered.
const maxFormer = 16

// memberRules say which members live. They are a value that does no I/O; one read at a time is made for them, answered by an
// input.
//
// A member whose key is deleted is gone at once. One whose key expired, or that has not renewed for its TTL, is gone after
// the grace, if the bucket's leader says at its begin and at its end that there is nothing newer. A read that fails says
// that JetStream is away: then nobody can renew, and the grace of all begins again.
type memberRules struct {
	grace, settle time.Duration
	rand          func() float64 // in [0, 1)

	members map[string]*memberState // by key
	known   bool                    // the bucket was read
	flight  struct {
		key  string // empty: none
		sent time.Time
	}
	notBefore time.Time // pause after a failure
	settleAt  time.Time // when those who came count; zero: there are none
}

// memberEffects are what is to be done.
type memberEffects struct {
	Read   string // a key, to be answered by an input; empty: none
	Failed error
	Next   time.Time // zero: nothing is due

	Changed bool // the view is another
	Tell    bool // which members are eligible, or with what weight, is another
}

// Step takes what happened and says what to do.
func (c *memberRules) Step(in lease.Input, now time.Time) (fx memberEffects) {
	switch in.Kind {
	case lease.EntryHeard:
		c.notBefore = time.Time{} // the bucket lives
		if s := c.members[in.Entry.Key]; s == nil || in.Entry.Revision > s.Revision {
			c.see(&in.Entry, now, &fx)
		}
	case lease.FeedLevel:
		if !c.known {
			c.known, fx.Changed = true, true
			c.settleAll(&fx)
		}
	case lease.KeysTrimmed:
		for _, s := range c.members {
			if s.State == lease.Present && s.Revision < in.Revision {
				s.doubt()
			}
		}
	case lease.BucketReplaced:
		for _, s := range c.members {
			s.doubt()
		}
	case lease.Answered:
		c.answer(in, now, &fx)
	}
	c.decide(now, &fx)
	fx.Tell = fx.Tell && c.known
	return fx
}

// doubt has the bucket's leader asked for a record that vanished without a word.
func (s *memberState) doubt() {
	if s.alive {
		s.Observation = lease.Observation{State: lease.Expired, Heard: s.Heard}
	} else {
		s.Observation = lease.Observation{State: lease.Absent}
	}
}

// see takes an entry that is newer than what is known of its key.
func (c *memberRules) see(e *kv.Entry, now time.Time, fx *memberEffects) {
	s := c.members[e.Key]
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
		c.members[e.Key] = s
		c.renew(s, m, now, fx)
	case s == nil: // somebody who was gone before
	case v.State == lease.Present:
		s.Observation = v
		c.renew(s, m, now, fx)
	case v.State == lease.Absent:
		s.Observation = v
		c.remove(s, now, fx)
	default:
		s.Observation = v
	}
}

// renew takes a member's record.
func (c *memberRules) renew(s *memberState, m Member, now time.Time, fx *memberEffects) {
	was := s.member
	s.member = m
	if was.ID != "" && was.ID != m.ID {
		s.former = append(slices.Clone(s.former), was.ID)
		s.former = s.former[max(0, len(s.former)-maxFormer):]
	}
	switch {
	case !s.alive:
		// Who is back before anybody could settle without it is put where it was.
		s.eligible = c.known && m.ID == was.ID && now.Sub(s.since) < c.settle
		s.alive, s.since = true, now
		fx.Changed, fx.Tell = true, fx.Tell || s.eligible
		if !s.eligible && c.settleAt.IsZero() {
			c.settleAt = now.Add(c.settle)
		}
	case m != was:
		if m.ID != was.ID {
			s.since = now
		}
		fx.Changed, fx.Tell = true, fx.Tell || s.eligible
	}
}

// remove takes it that a member is gone.
func (c *memberRules) remove(s *memberState, now time.Time, fx *memberEffects) {
	if !s.alive {
		return
	}
	fx.Changed, fx.Tell = true, fx.Tell || s.eligible
	s.alive, s.eligible, s.since = false, false, now
	if fx.Tell {
		c.settleAll(fx) // all is shared anew in any case
	}
}

// settleAll makes all who live count.
func (c *memberRules) settleAll(fx *memberEffects) {
	c.settleAt = time.Time{}
	for _, s := range c.members {
		if s.alive && !s.eligible {
			s.eligible, fx.Changed = true, true
		}
	}
	fx.Tell = true
}

func (c *memberRules) answer(in lease.Input, now time.Time, fx *memberEffects) {
	f := c.flight
	c.flight.key = ""
	if in.Err != nil {
		for _, s := range c.members {
			s.Silent = time.Time{}
		}
		c.notBefore, fx.Failed = now.Add(lease.RetryIn(c.grace, c.rand)), in.Err
		return
	}
	s := c.members[f.key]
	if s == nil || !s.alive {
		return
	}
	switch what := s.Compare(f.sent, in.Found, in.Entry.Revision); {
	case what == lease.Newer:
		c.see(&in.Entry, now, fx)
	case what == lease.Stale:
	case s.Silent.IsZero() || what == lease.Missing && s.State == lease.Present:
		s.Silent = now
		if what == lease.Missing {
			s.State, s.Revision = lease.Expired, 0
		}
	default:
		s.State = lease.Absent
		c.remove(s, now, fx)
	}
}

// decide says what to do next, from what is known.
func (c *memberRules) decide(now time.Time, fx *memberEffects) {
	if !c.settleAt.IsZero() && !now.Before(c.settleAt) && c.known {
		c.settleAll(fx)
	}
	var due string
	next := now.Add(forget)
	for key, s := range c.members {
		if !s.alive {
			if now.Sub(s.since) >= forget {
				delete(c.members, key)
				fx.Changed = true
			}
			continue
		}
		at, _ := s.Overdue(s.member.ttl(), c.grace) // at either end of the grace the leader is asked
		if at = lease.Later(at, c.notBefore); at.Before(next) {
			due, next = key, at
		}
	}
	if !c.settleAt.IsZero() {
		fx.Next = c.settleAt
	}
	switch {
	case c.flight.key != "" || due == "": // its answer is the next step
	case !now.Before(next):
		c.flight.key, c.flight.sent = due, now
		fx.Read = due
	case fx.Next.IsZero() || next.Before(fx.Next):
		fx.Next = next
	}
}
