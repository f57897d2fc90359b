package election

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
)

func (c *rules) answer(in lease.Input, now time.Time, fx *effects) {
	f := c.flight
	c.flight = flight{}
	switch {
	case in.Err != nil:
		c.fail(f, in.Err, now, fx)
	case f.Is == lease.Reading:
		c.look(f, in, now, fx)
	case f.Is == lease.Deleting:
		if in.Revision > c.view.Revision && c.view.State != lease.Unknown {
			c.see(view{Observation: lease.Observation{State: lease.Absent, Revision: in.Revision, Heard: now}}, now, fx)
		}
	case f.Is == lease.Writing:
		c.wrote(f, in.Revision, now, fx)
	}
}

// look takes what a read found.
func (c *rules) look(f flight, in lease.Input, now time.Time, fx *effects) {
	switch c.view.Compare(f.Sent, in.Found, in.Entry.Revision) {
	case lease.Same:
		c.view.Silent = now
	case lease.Newer:
		c.see(c.read(in.Entry, now, fx), now, fx)
	case lease.Missing:
		c.see(view{Observation: lease.Observation{State: lease.Absent, Heard: now}}, now, fx)
	}
}

func (c *rules) wrote(f flight, revision uint64, now time.Time, fx *effects) {
	c.conflicts, c.renewed = 0, f.Sent
	c.renewAt = f.Sent.Add(lease.RenewIn(c.ttl, c.rand))
	if c.view.State == lease.Unknown || revision < c.view.Revision {
		c.changed, c.unsure = c.leading, c.unsure || c.leading && f.wins
		return // the bucket was lost meanwhile, or something came after: what is there now decides
	}
	c.unsure = false
	record := f.Record
	if !record.same(&c.mine) { // deposed while it was on its way: it stands there, and leads nobody
		c.see(view{Observation: lease.Observation{State: lease.Present, Revision: revision, Heard: now}, record: record}, now, fx)
		return
	}
	if f.wins {
		record.Term = max(record.Term, revision)
	}
	// A term lower than the revision is corrected at once.
	c.changed = c.changed || record.Term > f.Record.Term
	c.mine.Term = max(c.mine.Term, record.Term)
	c.held, fx.Renewed = record, true
	c.see(view{Observation: lease.Observation{State: lease.Present, Revision: revision, Heard: now}, record: record}, now, fx)
	if !c.leading {
		c.elect(now, fx)
	}
}

func (c *rules) elect(now time.Time, fx *effects) {
	c.leading = true
	if c.stopping {
		c.resigning, c.resignBy = true, now.Add(resignWait)
		return
	}
	c.lead, fx.Elected = true, true
}

func (c *rules) fail(f flight, err error, now time.Time, fx *effects) {
	c.changed = c.changed || c.leading && f.Is == lease.Writing
	c.unsure = c.unsure || c.leading && f.wins
	retry := now.Add(lease.RetryIn(c.ttl, c.rand))
	if errors.Is(err, kv.ErrConflict) {
		if c.view.Revision == f.On {
			c.view.State = lease.Unknown
		}
		// Once is how elections are lost. Again, with nothing heard, is a bucket that answers in two ways.
		if c.conflicts++; c.conflicts > 1 {
			c.notBefore = retry
		}
		return
	}
	c.notBefore = retry
	c.view.Silent = time.Time{} // nobody can renew either: the grace begins again
	fx.Failed, fx.Ensure = err, lease.Gone(err)
}

// decide says what to do next, from what is known.
func (c *rules) decide(now time.Time, fx *effects) {
	if c.flight.Is != lease.NoRequest {
		return // its answer is the next step
	}
	if c.resigning && (now.After(c.resignBy) || c.view.State != lease.Unknown && !c.holds()) {
		c.leave()
		c.holdOff = now.Add(c.ttl)
		fx.Resigned = true
	}
	switch {
	case c.stopping && !c.leading:
		fx.Done = !c.lead
	case now.Before(c.notBefore):
		fx.Next = c.notBefore
	case c.view.State == lease.Unknown:
		c.ask(now, fx)
	case c.leading:
		c.keep(now, fx)
	case !c.lead:
		c.contend(now, fx)
	}
}

// keep holds on to the lease, or gives it back.
func (c *rules) keep(now time.Time, fx *effects) {
	switch {
	case c.resigning:
		c.flight = flight{InFlight: lease.InFlight[LeaderRecord]{Is: lease.Deleting, On: c.view.Revision, Sent: now}}
		fx.Write = &kv.Write{Key: LeaderKey(c.store), Revision: c.view.Revision, Term: c.floor()}
	case c.stopping && now.After(c.renewTill):
	case c.holds() && !c.changed && now.Before(c.renewAt):
		fx.Next = c.renewAt
	default:
		if floor := c.floor(); !c.holds() && floor > c.mine.Term {
			c.mine.Term = above(floor)
		}
		c.write(!c.holds(), now, fx)
	}
}

// contend waits for the lease to be free, and takes it. A record of this candidate that leads nobody is free.
func (c *rules) contend(now time.Time, fx *effects) {
	at := c.holdOff
	switch v := &c.view; {
	case c.holds():
		// Won, and the acknowledgement was lost.
		c.mine.Term = max(v.record.Term, v.Revision)
		c.held, c.changed = c.mine, true
		c.elect(now, fx)
		c.decide(now, fx)
		return
	case v.State == lease.Expired || v.State == lease.Present && !c.ours():
		quiet, grace := time.Duration(0), c.grace
		if v.State == lease.Present {
			ttl := v.record.ttl(c.ttl)
			grace = min(grace, ttl/2)
			quiet = ttl - grace
		}
		due, ask := v.Overdue(quiet, grace)
		if at = lease.Later(at, due); ask && !now.Before(at) {
			c.ask(now, fx)
			return
		}
	}
	switch {
	case now.Before(at):
		fx.Next = at
	case c.floor() >= event.MaxTerm:
		// Two leaders with one term could not be told apart.
		fx.Failed, fx.Next = fmt.Errorf("store %s: %w", c.store, ErrLastTerm), now.Add(c.ttl)
	default:
		c.win(now, fx)
	}
}

func (c *rules) ask(now time.Time, fx *effects) {
	c.flight = flight{InFlight: lease.InFlight[LeaderRecord]{Is: lease.Reading, Sent: now}}
	fx.Read = true
}

// floor is the highest term that anybody is known to have used.
func (c *rules) floor() uint64 {
	if c.minTerm == nil {
		return c.term
	}
	return max(c.term, c.minTerm())
}

func (c *rules) win(now time.Time, fx *effects) {
	c.before, c.vacancy = c.last, VacantExpired
	switch {
	case c.view.State == lease.Absent && c.view.Revision > 0:
		c.vacancy = VacantResigned
	case c.view.State == lease.Absent && c.last.ID != "":
		c.vacancy = VacantLost
	case c.view.State == lease.Absent:
		c.vacancy = VacantFirst
	}
	c.mine = LeaderRecord{
		Store: c.store, Leader: c.self.Name, ID: c.self.ID, Host: c.self.Host, PID: c.self.PID,
		Term: above(c.floor()), Epoch: c.last.Epoch, Witness: c.last.Witness, Since: now.UTC().Round(0), TTLMillis: c.ttl.Milliseconds(),
	}
	c.write(true, now, fx)
}

func (c *rules) write(wins bool, now time.Time, fx *effects) {
	data, err := json.Marshal(c.mine)
	if err != nil { // strings and numbers: it can't
		fx.Failed, fx.Next = fmt.Errorf("encode lease of %s: %w", c.store, err), now.Add(lease.MaxRetry)
		return
	}
	c.flight = flight{InFlight: lease.InFlight[LeaderRecord]{Is: lease.Writing, On: c.view.Revision, Record: c.mine, Sent: now}, wins: wins}
	c.changed = false
	fx.Write = &kv.Write{Key: LeaderKey(c.store), Data: data, Revision: c.view.Revision, TTL: lease.BucketTTL(c.ttl)}
}
