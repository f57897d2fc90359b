package membership

import (
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
)

// sessionRules are those of one run of an instance that holds its session. They are a value that does no
// I/O; one request at a time is made for them.
//
// Two runs of one name are told apart by the incarnation of their records. A run chooses its incarnation
// when it first writes, and keeps it: one above the record that it replaces, or above the revision of the
// marker that it finds in place of one.
//
//	Invariant: incarnation(run) ≤ revision(first write of run) < incarnation(next run),
//
// whether or not there was a record in between. What a run finds under the key decides:
//
//	a record of another run, incarnation ≥ its own    the run is superseded, and writes nothing any more
//	a record of another run, incarnation below        the run writes over it
//	its own record, a marker, nothing, no session     the run writes its record
//
// Of two runs that chose the same incarnation, the one in the bucket won.
type sessionRules struct {
	lease lease.Keeper[Member]
	mine  Member // what the bucket should hold

	claimed bool // mine has its incarnation, and may have been written
	closing bool
	by      *Member // the record that superseded this run
}

func newSessionRules(mine Member, ttl time.Duration, jitter func() float64) sessionRules {
	decode := func(e *kv.Entry) (Member, error) {
		if e.Operation != kv.Put {
			return Member{}, nil
		}
		return DecodeMember(e.Key, e.Data)
	}
	return sessionRules{mine: mine, lease: lease.NewKeeper(MemberKey(mine.Name), ttl, decode, jitter)}
}

// sessionEffects are what is to be done.
type sessionEffects struct {
	lease.Effects
	Held bool // what was written is what the bucket holds
	Done bool // closed or superseded, and nothing is left to do
}

// Step takes what happened to the key, and says what to do.
func (r *sessionRules) Step(in lease.Input, now time.Time) (fx sessionEffects) {
	switch r.lease.Step(in, now, &fx.Effects) {
	case lease.Observed:
		another := r.claimed && r.present() && !r.ours()
		if found := r.lease.Record; another && found.Incarnation >= r.mine.Incarnation {
			r.by = &found
		}
	case lease.Written:
		fx.Held = true
	case lease.Failed:
		if r.closing {
			r.lease.Recheck()
		}
	}
	r.decide(now, &fx)
	return fx
}

// edit changes the record that the bucket should hold.
func (r *sessionRules) edit(change func(*Member), now time.Time) (fx sessionEffects) {
	before := r.mine
	change(&r.mine)
	if r.mine != before {
		r.lease.Change()
	}
	r.decide(now, &fx)
	return fx
}

// stop has the session given back. The key is read before: what was written last may have come late.
func (r *sessionRules) stop(now time.Time) (fx sessionEffects) {
	r.closing = true
	r.lease.Hurry()
	r.lease.Recheck()
	r.decide(now, &fx)
	return fx
}

// present reports whether a session is under the key.
func (r *sessionRules) present() bool { return r.lease.State == lease.Present }

// ours reports whether the key holds this run's record.
func (r *sessionRules) ours() bool { return r.present() && r.lease.Record.ID == r.mine.ID }

// settled reports whether the key holds this run's record as it is to be, and nothing is being written.
func (r *sessionRules) settled() bool { return r.ours() && r.lease.Settled() }

// decide says what to do next, from what is known.
func (r *sessionRules) decide(now time.Time, fx *sessionEffects) {
	switch {
	case r.lease.Busy():
	case r.by != nil, r.closing && !r.claimed:
		fx.Done = true
	case !r.lease.Ready(now, &fx.Effects):
	case r.closing && r.ours():
		r.lease.Delete(0, now, &fx.Effects)
	case r.closing:
		fx.Done = true
	default:
		if !r.claimed {
			r.claim()
		}
		r.lease.Keep(r.mine, r.ours(), now, &fx.Effects)
	}
}

// claim chooses the run's incarnation.
func (r *sessionRules) claim() {
	r.claimed, r.mine.Incarnation = true, r.lease.Revision+1
	if r.present() {
		r.mine.Incarnation = r.lease.Record.Incarnation + 1
	}
}
