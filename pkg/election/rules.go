package election

import (
	"time"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/registration"
)

const resignWait = 2 * time.Second // for the deletion to be acknowledged

// view is what a candidate knows of the key.
type view struct {
	lease.Observation
	record LeaderRecord // Present; else only the term, where the marker says it
}

// flight is the one request that is under way.
type flight struct {
	lease.InFlight[LeaderRecord]
	wins bool // it is written where no record of this leadership stands
}

// rules is one candidate for one store: the rules of the election. It is a value that does no I/O; one request at a
// time is made for it.
//
// What makes it safe is that each write is conditional on the revision it was decided on. Time only says when to try.
//
// Terms grow with each leadership: a term is above every term known, and at least the revision of the write that won, or
// that put the lease back where it had vanished. Whoever wins later does so with a later revision, whether or not it
// has seen the record before. The record goes out with the first of the two, as the second is not known before; the
// leader uses the greater and writes it with a renewal at once, and until then its successor is above it all the same. The
// marker of a lease that was given back has its term: it may be above the revision.
// When the bucket is lost revisions begin anew, and the term rests on what candidates and minTerm remember; where all
// forgot, proxies that refuse the term tell, and RaiseTerm mends it.
type rules struct {
	store      string
	self       registration.Owner
	ttl, grace time.Duration
	flushWait  time.Duration
	minTerm    func() uint64
	rand       func() float64 // in [0, 1)

	view   view
	flight flight
	term   uint64       // highest seen
	last   LeaderRecord // the last record seen, whoever's

	mine    LeaderRecord // what the bucket should hold while leading
	held    LeaderRecord // what it was last known to hold of it
	before  LeaderRecord // the leader before, at the last try to win
	vacancy Vacancy

	leading   bool
	lead      bool // Lead runs: no other begins before it has returned
	resigning bool
	stopping  bool
	changed   bool      // mine is to be written now
	unsure    bool      // a lease that had vanished may have been written again, or not
	renewed   time.Time // when the last renewal that was acknowledged was sent
	renewAt   time.Time
	conflicts int // in a row

	notBefore time.Time // pause after a failure
	holdOff   time.Time // after resigning: let others lead
	resignBy  time.Time
	renewTill time.Time // stopping: a Lead that does not return must not keep the store from a leader that works
}

// update is what a leader wants of its next record.
type update struct {
	term    uint64  // a term that the lease's must be above
	epoch   *string // the new epoch; nil: as it is
	witness string  // of the new epoch
}

// effects are what is to be done. At most one of Read and Write is asked for, and answered by an input.
type effects struct {
	Read   bool
	Write  *kv.Write
	Ensure bool // the bucket is gone
	Failed error
	Next   time.Time // zero: nothing is due

	Renewed                    bool // the write that was answered is what the bucket holds
	Elected, Deposed, Resigned bool
	Done                       bool // stopped, and nothing is left to do
}

// Step takes what happened and says what to do.
func (c *rules) Step(in lease.Input, now time.Time) (fx effects) {
	switch in.Kind {
	case lease.EntryHeard:
		if in.Entry.Revision > c.view.Revision {
			c.notBefore, c.conflicts = time.Time{}, 0 // the bucket lives
			c.see(c.read(in.Entry, now, &fx), now, &fx)
		}
	case lease.KeysTrimmed:
		if c.view.Revision > 0 && c.view.Revision < in.Revision {
			c.view = view{}
		}
	case lease.BucketReplaced:
		c.view = view{}
	case lease.Answered:
		c.answer(in, now, &fx)
	}
	c.decide(now, &fx)
	return fx
}

// renew has the lease renewed now, with what the leader wants of it.
func (c *rules) renew(u update, now time.Time) (fx effects) {
	c.mine.Term = max(c.mine.Term, above(u.term))
	if u.epoch != nil {
		c.mine.Epoch, c.mine.Witness = *u.epoch, u.witness
	}
	c.changed = true
	c.decide(now, &fx)
	return fx
}

// leadReturned hears that Lead has returned.
func (c *rules) leadReturned(now time.Time) (fx effects) {
	c.lead = false
	c.resigning, c.resignBy = c.leading, now.Add(resignWait)
	c.decide(now, &fx)
	return fx
}

// stop has the candidate go.
func (c *rules) stop(now time.Time) (fx effects) {
	c.stopping, c.renewTill = true, now.Add(c.flushWait)
	c.decide(now, &fx)
	return fx
}

// above is the next term; the last there is has none.
func above(term uint64) uint64 { return min(term, event.MaxTerm-1) + 1 }

// read makes a view of an entry. What is no lease is nobody's.
func (c *rules) read(e kv.Entry, now time.Time, fx *effects) view {
	v := view{Observation: lease.Observe(&e, c.view.State, now)}
	if v.State != lease.Present {
		v.record.Term = e.Term // whoever resigned says which was the highest
		return v
	}
	if v.record, fx.Failed = decodeLeader(c.store, e.Data); fx.Failed != nil {
		v.State = lease.Absent
	}
	return v
}

func (c *rules) see(v view, now time.Time, fx *effects) {
	c.view = v
	if v.State == lease.Present {
		c.last = v.record
	}
	c.term = max(c.term, v.record.Term)
	// Found deleted after a long pause: another may have led and resigned, so what Lead knows is old. It contends anew.
	led := v.State == lease.Absent && now.Sub(c.renewed) > c.ttl && !c.resigning
	if c.leading && (led || v.State == lease.Present && !c.ours()) {
		c.leave()
		fx.Deposed = true
	}
	if c.leading && c.unsure && c.holds() {
		c.mine.Term, c.changed, c.unsure = max(c.mine.Term, v.Revision), true, false
	}
}

// leave ends the leadership. What it may have left in the bucket is not taken for the next one's.
func (c *rules) leave() {
	c.leading, c.resigning, c.unsure, c.mine = false, false, false, LeaderRecord{}
}

// ours reports whether the key holds a record of this candidate, be it of an earlier leadership, or of a write that was
// given up and came late.
func (c *rules) ours() bool { return c.view.State == lease.Present && c.view.record.ID == c.self.ID }

// holds reports whether the key holds the record of this leadership, or of the try to win it.
func (c *rules) holds() bool { return c.view.State == lease.Present && c.view.record.same(&c.mine) }
