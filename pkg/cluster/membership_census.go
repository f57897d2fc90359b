package cluster

import (
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/registry"
)

// forget is how long a member that is gone is remembered.
const forget = time.Hour

// seat is what is known of one member.
type seat struct {
	sight
	member Member // the last record that could be read
	alive  bool
	counts bool      // alive, and settled
	since  time.Time // when it came, or went
	former []string  // ids of runs before, at most maxFormer; a view may have it, so it is never changed in place
}

// maxFormer is how many former runs of a name are remembered.
const maxFormer = 16

// census counts the members: the rules. It is a value that does no I/O; one read at a time is made for it, answered by an
// input.
//
// A member whose key is deleted is gone at once. One whose key expired, or that has not renewed for its TTL, is gone after
// the grace, if the bucket's leader says at its begin and at its end that there is nothing newer. A read that fails says
// that JetStream is away: then nobody can renew, and the grace of all begins again.
type census struct {
	grace, settle time.Duration
	rand          func() float64 // in [0, 1)

	seats  map[string]*seat // by key
	known  bool             // the bucket was read
	flight struct {
		key  string // empty: none
		sent time.Time
	}
	notBefore time.Time // pause after a failure
	settleAt  time.Time // when those who came count; zero: there are none
}

// censusEffects are what is to be done.
type censusEffects struct {
	Read   string // a key, to be answered by an input; empty: none
	Failed error
	Next   time.Time // zero: nothing is due

	Changed bool // the view is another
	Tell    bool // who counts, or as what, is another
}

// Step takes what happened and says what to do.
func (c *census) Step(in input, now time.Time) (fx censusEffects) {
	switch in.kind {
	case heard:
		c.notBefore = time.Time{} // the bucket lives
		if s := c.seats[in.entry.Key]; s == nil || in.entry.Revision > s.revision {
			c.see(&in.entry, now, &fx)
		}
	case level:
		if !c.known {
			c.known, fx.Changed = true, true
			c.settleAll(&fx)
		}
	case trimmed:
		for _, s := range c.seats {
			if s.is == leased && s.revision < in.revision {
				s.doubt()
			}
		}
	case voided:
		for _, s := range c.seats {
			s.doubt()
		}
	case answered:
		c.answer(in, now, &fx)
	}
	c.decide(now, &fx)
	fx.Tell = fx.Tell && c.known
	return fx
}

// doubt has the bucket's leader asked for a record that vanished without a word.
func (s *seat) doubt() {
	if s.alive {
		s.sight = sight{is: lapsed, heard: s.heard}
	} else {
		s.sight = sight{is: vacant}
	}
}

// see takes an entry that is newer than what is known of its key.
func (c *census) see(e *registry.Entry, now time.Time, fx *censusEffects) {
	s := c.seats[e.Key]
	before := vacant
	if s != nil {
		before = s.is
	}
	v := sightOf(e, before, now)
	var m Member
	if v.is == leased {
		if m, fx.Failed = DecodeMember(e.Key, e.Data); fx.Failed != nil {
			v.is, v.silent = lapsed, now // its holder writes over that, if it lives
		}
	}
	switch {
	case v.is == leased && s == nil:
		s = &seat{sight: v}
		c.seats[e.Key] = s
		c.renew(s, m, now, fx)
	case s == nil: // somebody who was gone before
	case v.is == leased:
		s.sight = v
		c.renew(s, m, now, fx)
	case v.is == vacant:
		s.sight = v
		c.remove(s, now, fx)
	default:
		s.sight = v
	}
}

// renew takes a member's record.
func (c *census) renew(s *seat, m Member, now time.Time, fx *censusEffects) {
	was := s.member
	s.member = m
	if was.ID != "" && was.ID != m.ID {
		s.former = append(slices.Clone(s.former), was.ID)
		s.former = s.former[max(0, len(s.former)-maxFormer):]
	}
	switch {
	case !s.alive:
		// Who is back before anybody could settle without it is put where it was.
		s.counts = c.known && m.ID == was.ID && now.Sub(s.since) < c.settle
		s.alive, s.since = true, now
		fx.Changed, fx.Tell = true, fx.Tell || s.counts
		if !s.counts && c.settleAt.IsZero() {
			c.settleAt = now.Add(c.settle)
		}
	case m != was:
		if m.ID != was.ID {
			s.since = now
		}
		fx.Changed, fx.Tell = true, fx.Tell || s.counts
	}
}

// remove takes it that a member is gone.
func (c *census) remove(s *seat, now time.Time, fx *censusEffects) {
	if !s.alive {
		return
	}
	fx.Changed, fx.Tell = true, fx.Tell || s.counts
	s.alive, s.counts, s.since = false, false, now
	if fx.Tell {
		c.settleAll(fx) // all is shared anew in any case
	}
}

// settleAll makes all who live count.
func (c *census) settleAll(fx *censusEffects) {
	c.settleAt = time.Time{}
	for _, s := range c.seats {
		if s.alive && !s.counts {
			s.counts, fx.Changed = true, true
		}
	}
	fx.Tell = true
}

func (c *census) answer(in input, now time.Time, fx *censusEffects) {
	f := c.flight
	c.flight.key = ""
	if in.err != nil {
		for _, s := range c.seats {
			s.silent = time.Time{}
		}
		c.notBefore, fx.Failed = now.Add(retryIn(c.grace, c.rand)), in.err
		return
	}
	s := c.seats[f.key]
	if s == nil || !s.alive {
		return
	}
	switch what := s.weigh(f.sent, in.found, in.entry.Revision); {
	case what == newer:
		c.see(&in.entry, now, fx)
	case what == overtaken:
	case s.silent.IsZero() || what == absent && s.is == leased:
		s.silent = now
		if what == absent {
			s.is, s.revision = lapsed, 0
		}
	default:
		s.is = vacant
		c.remove(s, now, fx)
	}
}

// decide says what to do next, from what is known.
func (c *census) decide(now time.Time, fx *censusEffects) {
	if !c.settleAt.IsZero() && !now.Before(c.settleAt) && c.known {
		c.settleAll(fx)
	}
	var due string
	next := now.Add(forget)
	for key, s := range c.seats {
		if !s.alive {
			if now.Sub(s.since) >= forget {
				delete(c.seats, key)
				fx.Changed = true
			}
			continue
		}
		at, _ := s.overdue(s.member.ttl(), c.grace) // at either end of the grace the leader is asked
		if at = later(at, c.notBefore); at.Before(next) {
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
