package election

import (
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/lease"
)

// decide says what to do next, from what is known.
func (r *rules) decide(now time.Time, fx *effects) {
	if r.lease.Busy() {
		return
	}
	if r.resigning && (now.After(r.resignBy) || r.lease.State != lease.Unknown && !r.holds()) {
		r.leave()
		r.holdOff = now.Add(r.ttl)
		fx.Resigned = true
	}
	switch {
	case r.stopping && !r.leading:
		fx.Done = !r.lead
	case !r.lease.Ready(now, &fx.Effects):
	case r.leading:
		r.keep(now, fx)
	case !r.lead:
		r.contend(now, fx)
	}
}

// keep holds on to the lease, or gives it back.
func (r *rules) keep(now time.Time, fx *effects) {
	switch {
	case r.resigning:
		r.lease.Delete(r.floor(), now, &fx.Effects)
	case r.stopping && now.After(r.renewTill):
	default:
		if floor := r.floor(); !r.holds() && floor > r.mine.Term {
			r.mine.Term = above(floor)
		}
		r.write(now, fx)
	}
}

// write has the lease written, at once or when its renewal is due.
func (r *rules) write(now time.Time, fx *effects) {
	r.wins = !r.holds()
	r.lease.Keep(r.mine, !r.wins, now, &fx.Effects)
}

// contend waits for the lease to be free, and takes it. A lease of this candidate that leads nobody is
// free.
func (r *rules) contend(now time.Time, fx *effects) {
	at := r.holdOff
	switch k := &r.lease; {
	case r.holds():
		// Won, and the acknowledgement was lost.
		r.mine.Term = max(k.Record.Term, k.Revision)
		r.held = r.mine
		k.Change()
		r.elect(now, fx)
		r.decide(now, fx)
		return
	case k.State == lease.Expired || k.State == lease.Present && !r.ours():
		quiet, grace := time.Duration(0), r.grace
		if k.State == lease.Present {
			ttl := k.Record.ttl(r.ttl)
			grace = min(grace, ttl/2)
			quiet = ttl - grace
		}
		due, read := k.Overdue(quiet, grace)
		if at = lease.Later(at, due); read && !now.Before(at) {
			k.Read(now, &fx.Effects)
			return
		}
	}
	switch {
	case now.Before(at):
		fx.Next = at
	case r.floor() >= event.MaxTerm:
		// Two leaders with one term could not be told apart.
		fx.Failed, fx.Next = fmt.Errorf("store %s: %w", r.store, ErrLastTerm), now.Add(r.ttl)
	default:
		r.win(now, fx)
	}
}

// floor is the highest term that anybody is known to have used.
func (r *rules) floor() uint64 {
	if r.minTerm == nil {
		return r.term
	}
	return max(r.term, r.minTerm())
}

// win tries to begin a leadership.
func (r *rules) win(now time.Time, fx *effects) {
	r.before, r.vacancy = r.last, VacantExpired
	switch k := &r.lease; {
	case k.State == lease.Absent && k.Revision > 0:
		r.vacancy = VacantResigned
	case k.State == lease.Absent && r.last.ID != "":
		r.vacancy = VacantLost
	case k.State == lease.Absent:
		r.vacancy = VacantFirst
	}
	r.mine = LeaderRecord{
		Store: r.store, Leader: r.self.Name, ID: r.self.ID, Host: r.self.Host, PID: r.self.PID,
		Term: above(r.floor()), Epoch: r.last.Epoch, Witness: r.last.Witness,
		Since: now.UTC().Round(0), TTLMillis: r.ttl.Milliseconds(),
	}
	r.write(now, fx)
}

func (r *rules) elect(now time.Time, fx *effects) {
	r.leading = true
	if r.stopping {
		r.resigning, r.resignBy = true, r.resigned(now)
		return
	}
	r.lead, fx.Elected = true, true
}
