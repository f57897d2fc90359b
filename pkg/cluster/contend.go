package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registry"
)

func (c *candidacy) answer(in input, now time.Time, fx *effects) {
	f := c.flight
	c.flight = flight{}
	switch {
	case in.err != nil:
		c.fail(f, in.err, now, fx)
	case f.is == reading:
		c.look(f, in, now, fx)
	case f.is == deleting:
		if in.revision > c.view.revision && c.view.is != unread {
			c.see(view{sight: sight{is: vacant, revision: in.revision, heard: now}}, now, fx)
		}
	case f.is == writing:
		c.wrote(f, in.revision, now, fx)
	}
}

// look takes what a read found.
func (c *candidacy) look(f flight, in input, now time.Time, fx *effects) {
	switch c.view.weigh(f.sent, in.found, in.entry.Revision) {
	case confirmed:
		c.view.silent = now
	case newer:
		c.see(c.read(in.entry, now, fx), now, fx)
	case absent:
		c.see(view{sight: sight{is: vacant, heard: now}}, now, fx)
	}
}

func (c *candidacy) wrote(f flight, revision uint64, now time.Time, fx *effects) {
	c.conflicts, c.renewed = 0, f.sent
	c.renewAt = f.sent.Add(renewIn(c.ttl, c.rand))
	if c.view.is == unread || revision < c.view.revision {
		c.changed, c.unsure = c.leading, c.unsure || c.leading && f.wins
		return // the bucket was lost meanwhile, or something came after: what is there now decides
	}
	c.unsure = false
	record := f.record
	if !record.same(&c.mine) { // deposed while it was on its way: it stands there, and leads nobody
		c.see(view{sight: sight{is: leased, revision: revision, heard: now}, record: record}, now, fx)
		return
	}
	if f.wins {
		record.Term = max(record.Term, revision)
	}
	// A term lower than the revision is corrected at once.
	c.changed = c.changed || record.Term > f.record.Term
	c.mine.Term = max(c.mine.Term, record.Term)
	c.held, fx.Renewed = record, true
	c.see(view{sight: sight{is: leased, revision: revision, heard: now}, record: record}, now, fx)
	if !c.leading {
		c.elect(now, fx)
	}
}

func (c *candidacy) elect(now time.Time, fx *effects) {
	c.leading = true
	if c.stopping {
		c.resigning, c.resignBy = true, now.Add(resignWait)
		return
	}
	c.lead, fx.Elected = true, true
}

func (c *candidacy) fail(f flight, err error, now time.Time, fx *effects) {
	c.changed = c.changed || c.leading && f.is == writing
	c.unsure = c.unsure || c.leading && f.wins
	retry := now.Add(retryIn(c.ttl, c.rand))
	if errors.Is(err, registry.ErrConflict) {
		if c.view.revision == f.on {
			c.view.is = unread
		}
		// Once is how elections are lost. Again, with nothing heard, is a bucket that answers in two ways.
		if c.conflicts++; c.conflicts > 1 {
			c.notBefore = retry
		}
		return
	}
	c.notBefore = retry
	c.view.silent = time.Time{} // nobody can renew either: the grace begins again
	fx.Failed, fx.Ensure = err, isGone(err)
}

func isGone(err error) bool {
	for _, gone := range []error{registry.ErrNoStream, nats.ErrNoResponders, nats.ErrStreamNotFound, jetstream.ErrStreamNotFound, jetstream.ErrNoStreamResponse} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// renewIn is the time from one renewal to the next.
func renewIn(ttl time.Duration, rand func() float64) time.Duration { return spread(ttl/renewals, rand) }

// retryIn is the time to the next try after one that failed.
func retryIn(ttl time.Duration, rand func() float64) time.Duration {
	return spread(min(max(ttl/retries, minRetry), maxRetry), rand)
}

// spread varies a duration by an eighth to either side.
func spread(d time.Duration, rand func() float64) time.Duration {
	return time.Duration(float64(d) * (0.875 + rand()/4))
}

// decide says what to do next, from what is known.
func (c *candidacy) decide(now time.Time, fx *effects) {
	if c.flight.is != idle {
		return // its answer is the next step
	}
	if c.resigning && (now.After(c.resignBy) || c.view.is != unread && !c.holds()) {
		c.leave()
		c.holdOff = now.Add(c.ttl)
		fx.Resigned = true
	}
	switch {
	case c.stopping && !c.leading:
		fx.Done = !c.lead
	case now.Before(c.notBefore):
		fx.Next = c.notBefore
	case c.view.is == unread:
		c.ask(now, fx)
	case c.leading:
		c.keep(now, fx)
	case !c.lead:
		c.contend(now, fx)
	}
}

// keep holds on to the lease, or gives it back.
func (c *candidacy) keep(now time.Time, fx *effects) {
	switch {
	case c.resigning:
		c.flight = flight{is: deleting, on: c.view.revision, sent: now}
		fx.Write = &registry.Write{Key: LeaderKey(c.store), Revision: c.view.revision, Term: c.floor()}
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
func (c *candidacy) contend(now time.Time, fx *effects) {
	at := c.holdOff
	switch v := &c.view; {
	case c.holds():
		// Won, and the acknowledgement was lost.
		c.mine.Term = max(v.record.Term, v.revision)
		c.held, c.changed = c.mine, true
		c.elect(now, fx)
		c.decide(now, fx)
		return
	case v.is == lapsed || v.is == leased && !c.ours():
		quiet, grace := time.Duration(0), c.grace
		if v.is == leased {
			ttl := v.record.ttl(c.ttl)
			grace = min(grace, ttl/2)
			quiet = ttl - grace
		}
		due, ask := v.overdue(quiet, grace)
		if at = later(at, due); ask && !now.Before(at) {
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

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (c *candidacy) ask(now time.Time, fx *effects) {
	c.flight = flight{is: reading, sent: now}
	fx.Read = true
}

// floor is the highest term that anybody is known to have used.
func (c *candidacy) floor() uint64 {
	if c.minTerm == nil {
		return c.term
	}
	return max(c.term, c.minTerm())
}

func (c *candidacy) win(now time.Time, fx *effects) {
	c.before, c.vacancy = c.last, VacantExpired
	switch {
	case c.view.is == vacant && c.view.revision > 0:
		c.vacancy = VacantResigned
	case c.view.is == vacant && c.last.ID != "":
		c.vacancy = VacantLost
	case c.view.is == vacant:
		c.vacancy = VacantFirst
	}
	c.mine = Record{
		Store: c.store, Leader: c.self.Name, ID: c.self.ID, Host: c.self.Host, PID: c.self.PID,
		Term: above(c.floor()), Epoch: c.last.Epoch, Witness: c.last.Witness, Since: now.UTC().Round(0), TTLMillis: c.ttl.Milliseconds(),
	}
	c.write(true, now, fx)
}

func (c *candidacy) write(wins bool, now time.Time, fx *effects) {
	data, err := json.Marshal(c.mine)
	if err != nil { // strings and numbers: it can't
		fx.Failed, fx.Next = fmt.Errorf("encode lease of %s: %w", c.store, err), now.Add(maxRetry)
		return
	}
	c.flight = flight{is: writing, on: c.view.revision, record: c.mine, wins: wins, sent: now}
	c.changed = false
	fx.Write = &registry.Write{Key: LeaderKey(c.store), Data: data, Revision: c.view.revision, TTL: garbageTTL(c.ttl)}
}

// garbageTTL is in whole seconds, as the bucket counts.
func garbageTTL(ttl time.Duration) time.Duration {
	return time.Duration(math.Ceil(ttl.Seconds()))*time.Second + garbage
}
