package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/registry"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Record is a leader's lease, as it stands in the bucket under LeaderKey.
type Record struct {
	Store  string `json:"store"`
	Leader string `json:"leader"` // the candidate's name
	ID     string `json:"id"`     // of its run: registry.Owner.ID
	Host   string `json:"host"`
	PID    int    `json:"pid"`
	Term   uint64 `json:"term"`
	// Epoch is the leader's to use (Lease.SetEpoch). A new leader carries it over until it sets another.
	Epoch     string    `json:"epoch"`
	Since     time.Time `json:"since"`  // when the leader began to contend, by its clock: it marks the leadership, no rule counts with it
	TTLMillis int64     `json:"ttl_ms"` // how long the lease outlives its last renewal
}

// LeaderKey is the key of a store's lease.
func LeaderKey(store string) string { return "leader." + subscription.EncodeToken(store) }

// ErrBadLease is returned for a value that is no lease, or not that of its store.
var ErrBadLease = errors.New("malformed lease")

func decodeRecord(store string, data []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("%w of store %s: %w", ErrBadLease, store, err)
	}
	if r.ID == "" || r.Store != store {
		return Record{}, fmt.Errorf("%w of store %s: id %q, store %q", ErrBadLease, store, r.ID, r.Store)
	}
	return r, nil
}

// same reports whether two records are of one leadership.
func (r *Record) same(other *Record) bool { return r.ID == other.ID && r.Since.Equal(other.Since) }

// maxTTL is the longest lease that is believed. One of a day is a mistake, and would keep a store without a leader.
const maxTTL = time.Hour

// ttl is how long the lease outlives a renewal; ours where the record does not say.
func (r *Record) ttl(ours time.Duration) time.Duration {
	if r.TTLMillis <= 0 || r.TTLMillis > maxTTL.Milliseconds() {
		return ours
	}
	return time.Duration(r.TTLMillis) * time.Millisecond
}

// Vacancy says why there was no leader when one was elected.
type Vacancy string

// The vacancies.
const (
	VacantFirst    Vacancy = "first"    // none was known before
	VacantResigned Vacancy = "resigned" // the lease was deleted, by its holder or by hand
	VacantExpired  Vacancy = "expired"  // the lease was not renewed
	VacantLost     Vacancy = "lost"     // the bucket, or what was in it, is gone
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

// content is what a key holds, as far as is known.
type content uint8

const (
	unread content = iota // not known: read it
	vacant                // deleted, or never written: whoever is first has it
	lapsed                // the bucket removed it, by TTL; its holder may live and writes again (registry.Expired)
	leased                // a record
)

// view is what a candidate knows of the key.
type view struct {
	is       content
	revision uint64 // 0: there is not even a marker
	record   Record // leased
	heard    time.Time
	// silent is when the leader of the bucket said that there is nothing newer, though the holder should have renewed by
	// then; zero before. The grace counts from here: while JetStream is away nobody can renew, and nobody is dead for it.
	silent time.Time
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
// leader uses the greater and writes it with a renewal at once, and until then its successor is above it all the same.
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
)

type input struct {
	kind     inputKind
	entry    registry.Entry
	found    bool
	revision uint64
	err      error
	term     uint64  // a term that the lease's must be above
	epoch    *string // the new epoch
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
			c.mine.Epoch = *in.epoch
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
func above(term uint64) uint64 { return max(term, term+1) }

// read makes a view of an entry. What is no lease is nobody's.
func (c *candidacy) read(e registry.Entry, now time.Time, fx *effects) view {
	v := view{is: vacant, revision: e.Revision, heard: now}
	switch {
	case e.Operation == registry.Expired && c.view.is != vacant: // the marker of a deletion can expire too
		v.is = lapsed
	case e.Operation == registry.Put:
		record, err := decodeRecord(c.store, e.Data)
		if err != nil {
			fx.Failed = err
			break
		}
		v.is, v.record = leased, record
	}
	return v
}

func (c *candidacy) see(v view, now time.Time, fx *effects) {
	c.view = v
	if v.is == leased {
		c.last, c.term = v.record, max(c.term, v.record.Term)
	}
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
			c.see(view{is: vacant, revision: in.revision, heard: now}, now, fx)
		}
	case f.is == writing:
		c.wrote(f, in.revision, now, fx)
	}
}

// look takes what a read found. What was heard after the question was asked may be newer than the answer. What was heard
// before is not, even with a higher revision: then the bucket is another one.
func (c *candidacy) look(f flight, in input, now time.Time, fx *effects) {
	asked := c.view.is == unread || c.view.heard.Before(f.sent)
	switch {
	case asked && in.found && c.view.is != unread && in.entry.Revision == c.view.revision:
		c.view.silent = now
	case in.found && (asked || in.entry.Revision > c.view.revision):
		c.see(c.read(in.entry, now, fx), now, fx)
	case !in.found && asked:
		c.see(view{is: vacant, heard: now}, now, fx)
	}
}

func (c *candidacy) wrote(f flight, revision uint64, now time.Time, fx *effects) {
	c.conflicts, c.renewed = 0, f.sent
	c.renewAt = f.sent.Add(c.spread(c.ttl / renewals))
	if c.view.is == unread || revision < c.view.revision {
		c.changed, c.unsure = c.leading, c.unsure || c.leading && f.wins
		return // the bucket was lost meanwhile, or something came after: what is there now decides
	}
	c.unsure = false
	record := f.record
	if !record.same(&c.mine) { // deposed while it was on its way: it stands there, and leads nobody
		c.see(view{is: leased, revision: revision, record: record, heard: now}, now, fx)
		return
	}
	if f.wins {
		record.Term = max(record.Term, revision)
	}
	// A term lower than the revision is corrected at once.
	c.changed = c.changed || record.Term > f.record.Term
	c.mine.Term = max(c.mine.Term, record.Term)
	c.held, fx.Renewed = record, true
	c.see(view{is: leased, revision: revision, record: record, heard: now}, now, fx)
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
	retry := now.Add(c.spread(min(max(c.ttl/retries, minRetry), maxRetry)))
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

// spread varies a duration by an eighth to either side.
func (c *candidacy) spread(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.875 + c.rand()/4))
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
		fx.Write = &registry.Write{Key: LeaderKey(c.store), Revision: c.view.revision}
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
	case v.is == lapsed:
		at = later(at, v.heard.Add(c.grace))
	case v.is == leased && !c.ours():
		ttl := v.record.ttl(c.ttl)
		grace := min(c.grace, ttl/2)
		if v.silent.IsZero() {
			if at = later(at, v.heard.Add(ttl-grace)); !now.Before(at) {
				c.ask(now, fx)
				return
			}
		} else {
			at = later(at, v.silent.Add(grace))
		}
	}
	if now.Before(at) {
		fx.Next = at
		return
	}
	c.win(now, fx)
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
		Term: above(c.floor()), Epoch: c.last.Epoch, Since: now.UTC().Round(0), TTLMillis: c.ttl.Milliseconds(),
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
