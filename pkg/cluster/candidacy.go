package cluster

import (
	"time"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registry"
)

// The pace of a candidacy.
const (
	renewals = 4  // renewals a TTL: one can be lost before a candidate even asks
	retries  = 20 // tries a TTL while a renewal fails, but not closer together than minRetry, nor further than maxRetry
	minRetry = 10 * time.Millisecond
	maxRetry = 200 * time.Millisecond
	// garbage is how long after its TTL the bucket removes a lease. By then candidates have judged for themselves.
	garbage    = 2 * time.Second
	resignWait = 2 * time.Second // for the deletion to be acknowledged
)

// view is what a candidate knows of the key.
type view struct {
	sight
	record Record // leased; of a vacant one the term, where the marker says it
}

// flight is the one request that is under way.
type flight struct {
	is     operation
	on     uint64 // the revision that a write is conditional on
	record Record
	wins   bool // it is written where no record of this leadership stands
	sent   time.Time
}

type operation uint8

const (
	idle operation = iota
	reading
	writing
	deleting
)

// candidacy is one candidate for one store: the rules of the election. It is a value that does no I/O; one request at a
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
type candidacy struct {
	store      string
	self       registry.Owner
	ttl, grace time.Duration
	flushWait  time.Duration
	minTerm    func() uint64
	rand       func() float64 // in [0, 1)

	view   view
	flight flight
	term   uint64 // highest seen
	last   Record // the last record seen, whoever's

	mine    Record // what the bucket should hold while leading
	held    Record // what it was last known to hold of it
	before  Record // the leader before, at the last try to win
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

type inputKind uint8

const (
	due      inputKind = iota // the time of effects.Next, or the start
	heard                     // entry: on the feed
	trimmed                   // revision: the bucket's first
	voided                    // the bucket is another
	answered                  // what became of the request: entry and found, or revision; err
	asked                     // the leader wants a renewal now; term and epoch
	returned                  // Lead returned
	stopped                   // the candidate goes
	level                     // all that the bucket held was heard; whoever read its key has no use for it
)

type input struct {
	kind     inputKind
	entry    registry.Entry
	found    bool
	revision uint64
	err      error
	term     uint64        // a term that the lease's must be above
	epoch    *string       // the new epoch
	witness  string        // of the new epoch
	edit     func(*Member) // asked of a session
}

// effects are what is to be done. At most one of Read and Write is asked for, and answered by an input.
type effects struct {
	Read   bool
	Write  *registry.Write
	Ensure bool // the bucket is gone
	Failed error
	Next   time.Time // zero: nothing is due

	Renewed                    bool // the write that was answered is what the bucket holds
	Elected, Deposed, Resigned bool
	Done                       bool // stopped, and nothing is left to do
}

// Step takes what happened and says what to do.
func (c *candidacy) Step(in input, now time.Time) (fx effects) {
	switch in.kind {
	case heard:
		if in.entry.Revision > c.view.revision {
			c.notBefore, c.conflicts = time.Time{}, 0 // the bucket lives
			c.see(c.read(in.entry, now, &fx), now, &fx)
		}
	case trimmed:
		if c.view.revision > 0 && c.view.revision < in.revision {
			c.view = view{}
		}
	case voided:
		c.view = view{}
	case answered:
		c.answer(in, now, &fx)
	case asked:
		c.mine.Term = max(c.mine.Term, above(in.term))
		if in.epoch != nil {
			c.mine.Epoch, c.mine.Witness = *in.epoch, in.witness
		}
		c.changed = true
	case returned:
		c.lead = false
		c.resigning, c.resignBy = c.leading, now.Add(resignWait)
	case stopped:
		c.stopping, c.renewTill = true, now.Add(c.flushWait)
	}
	c.decide(now, &fx)
	return fx
}

// above is the next term; the last there is has none.
func above(term uint64) uint64 { return min(term, event.MaxTerm-1) + 1 }

// read makes a view of an entry. What is no lease is nobody's.
func (c *candidacy) read(e registry.Entry, now time.Time, fx *effects) view {
	v := view{sight: sightOf(&e, c.view.is, now)}
	if v.is != leased {
		v.record.Term = e.Term // whoever resigned says which was the highest
		return v
	}
	if v.record, fx.Failed = decodeRecord(c.store, e.Data); fx.Failed != nil {
		v.is = vacant
	}
	return v
}

func (c *candidacy) see(v view, now time.Time, fx *effects) {
	c.view = v
	if v.is == leased {
		c.last = v.record
	}
	c.term = max(c.term, v.record.Term)
	// Found deleted after a long pause: another may have led and resigned, so what Lead knows is old. It contends anew.
	led := v.is == vacant && now.Sub(c.renewed) > c.ttl && !c.resigning
	if c.leading && (led || v.is == leased && !c.ours()) {
		c.leave()
		fx.Deposed = true
	}
	if c.leading && c.unsure && c.holds() {
		c.mine.Term, c.changed, c.unsure = max(c.mine.Term, v.revision), true, false
	}
}

// leave ends the leadership. What it may have left in the bucket is not taken for the next one's.
func (c *candidacy) leave() {
	c.leading, c.resigning, c.unsure, c.mine = false, false, false, Record{}
}

// ours reports whether the key holds a record of this candidate, be it of an earlier leadership, or of a write that was
// given up and came late.
func (c *candidacy) ours() bool { return c.view.is == leased && c.view.record.ID == c.self.ID }

// holds reports whether the key holds the record of this leadership, or of the try to win it.
func (c *candidacy) holds() bool { return c.view.is == leased && c.view.record.same(&c.mine) }
