package election

import (
	"time"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/registration"
)

// resignWait is what the bucket may take for the deletion, and for the request before it.
const resignWait = 2 * time.Second

// settings are a candidate's part in an election.
type settings struct {
	store      string
	self       registration.Owner
	ttl, grace time.Duration
	flushWait  time.Duration
	patience   func(work time.Duration) time.Duration // how long to wait for that work of the bucket; nil: so long
	minTerm    func() uint64                          // the highest term that others know of
}

// rules are those of one candidate for one store. They are a value that does no I/O; one request at a time
// is made for them.
//
// Terms grow with each leadership: a term is above every term known, and at least the revision of the write
// that won, or that put the lease back where it had vanished. A later leadership is won with a later
// revision, whether or not its candidate has seen the record before. The record goes out with the first of
// the two, as the second is not known before; the leader uses the greater and writes it with a renewal at
// once, and until then its successor is above it all the same. The marker of a lease that was given back
// has its term, which may be above the revision.
//
// When the bucket is lost, revisions begin anew, and the term rests on what candidates and minTerm
// remember. Where all forgot, the proxies refuse the term and say so, and RaiseTerm mends it.
type rules struct {
	settings
	lease lease.Keeper[LeaderRecord] // where there is no lease, its Record has the marker's term
	term  uint64                     // highest seen
	last  LeaderRecord               // the last lease seen, of any candidate

	mine    LeaderRecord // what the bucket should hold while leading
	held    LeaderRecord // what it was last known to hold of it
	before  LeaderRecord // the leader before, at the last try to win
	vacancy Vacancy

	leading   bool
	lead      bool // Lead runs: no other begins before it has returned
	resigning bool
	stopping  bool
	wins      bool // the write under way is made where no lease of this leadership stands
	unsure    bool // a lease that had vanished may have been written again, or not

	holdOff  time.Time // after resigning: let others lead
	resignBy time.Time
	// renewTill is when a candidate that stops renews no more: a Lead that does not return must not keep
	// the store from a leader that works.
	renewTill time.Time
}

func newRules(s settings, jitter func() float64) rules {
	decode := func(e *kv.Entry) (LeaderRecord, error) {
		if e.Operation != kv.Put {
			return LeaderRecord{Term: e.Term}, nil
		}
		return decodeLeader(s.store, e.Data)
	}
	return rules{settings: s, lease: lease.NewKeeper(LeaderKey(s.store), s.ttl, decode, jitter)}
}

// update is what a leader wants of its next record.
type update struct {
	term    uint64  // a term that the lease's must be above
	epoch   *string // the new epoch; nil: as it is
	witness string  // of the new epoch
}

// effects are what is to be done.
type effects struct {
	lease.Effects
	Renewed                    bool // the write that was answered is what the bucket holds
	Elected, Deposed, Resigned bool
	Done                       bool // stopped, and nothing is left to do
}

// Step takes what happened to the key, and says what to do.
func (r *rules) Step(in lease.Input, now time.Time) (fx effects) {
	wins := r.wins
	if in.Kind == lease.Answered {
		r.wins = false
	}
	switch r.lease.Step(in, now, &fx.Effects) {
	case lease.Observed:
		r.observe(now, &fx)
	case lease.Written:
		r.written(wins, now, &fx)
	case lease.Overtaken, lease.Refused, lease.Failed:
		r.unsure = r.unsure || r.leading && wins
	}
	r.decide(now, &fx)
	return fx
}

// renew has the lease renewed now, with what the leader wants of it.
func (r *rules) renew(u update, now time.Time) (fx effects) {
	r.mine.Term = max(r.mine.Term, above(u.term))
	if u.epoch != nil {
		r.mine.Epoch, r.mine.Witness = *u.epoch, u.witness
	}
	r.lease.Change()
	r.decide(now, &fx)
	return fx
}

// leadReturned hears that Lead has returned.
func (r *rules) leadReturned(now time.Time) (fx effects) {
	r.lead = false
	r.resigning, r.resignBy = r.leading, r.resigned(now)
	r.decide(now, &fx)
	return fx
}

// resigned is when the deletion is not waited for any more.
func (r *rules) resigned(now time.Time) time.Time {
	if r.patience == nil {
		return now.Add(resignWait)
	}
	return now.Add(r.patience(resignWait/2) + r.patience(resignWait/2))
}

// stop has the candidate go.
func (r *rules) stop(now time.Time) (fx effects) {
	r.stopping, r.renewTill = true, now.Add(r.flushWait)
	r.decide(now, &fx)
	return fx
}

// above is the next term; the last there is has none.
func above(term uint64) uint64 { return min(term, event.MaxTerm-1) + 1 }

// observe notes what is under the key now.
func (r *rules) observe(now time.Time, fx *effects) {
	if r.lease.State == lease.Present {
		r.last = r.lease.Record
	}
	r.term = max(r.term, r.lease.Record.Term)
	// Found deleted after a long pause: another may have led and resigned, so what Lead knows is old. It
	// contends anew.
	vacated := r.lease.State == lease.Absent && now.Sub(r.lease.Renewed()) > r.ttl && !r.resigning
	if r.leading && (vacated || r.lease.State == lease.Present && !r.ours()) {
		r.leave()
		fx.Deposed = true
	}
	if r.leading && r.unsure && r.holds() {
		r.mine.Term, r.unsure = max(r.mine.Term, r.lease.Revision), false
		r.lease.Change()
	}
}

// written notes that the record of the last write is under the key.
func (r *rules) written(wins bool, now time.Time, fx *effects) {
	r.unsure = false
	if !r.holds() { // deposed while it was on its way: it stands there, and leads nobody
		r.observe(now, fx)
		return
	}
	sent := r.lease.Record.Term
	if wins {
		r.lease.Record.Term = max(sent, r.lease.Revision)
	}
	if r.lease.Record.Term > sent { // corrected at once
		r.lease.Change()
	}
	r.mine.Term = max(r.mine.Term, r.lease.Record.Term)
	r.held, fx.Renewed = r.lease.Record, true
	r.observe(now, fx)
	if !r.leading {
		r.elect(now, fx)
	}
}

// leave ends the leadership. A record that it may have left in the bucket is not that of the next
// leadership.
func (r *rules) leave() {
	r.leading, r.resigning, r.unsure, r.mine = false, false, false, LeaderRecord{}
}

// ours reports whether the key holds a lease of this candidate, be it of an earlier leadership, or of a
// write that was given up and came late.
func (r *rules) ours() bool {
	return r.lease.State == lease.Present && r.lease.Record.ID == r.self.ID
}

// holds reports whether the key holds the lease of this leadership, or of the try to win it.
func (r *rules) holds() bool {
	return r.lease.State == lease.Present && r.lease.Record.same(&r.mine)
}
