package lease

import (
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
)

// KeyState is what a key holds, as far as is known.
type KeyState uint8

// The states of a key.
const (
	Unknown KeyState = iota // read it
	Absent                  // deleted, or never written: the first to write has it
	Expired                 // the record outlived its TTL in the bucket; the holder may live, and writes it again
	Present                 // a record
)

// Observation is what was last seen of a key that somebody has to renew.
type Observation struct {
	State    KeyState
	Revision uint64 // 0: there is not even a marker
	Heard    time.Time
	// Silent is when the leader of the bucket said that there is nothing newer, though the holder should
	// have renewed by then; zero before. The grace counts from here: while JetStream is away nobody can
	// renew, and nobody is dead for it.
	Silent time.Time
}

// Observe is what an entry shows of its key: a record, unless it turns out to be unreadable. The marker of
// an expiry is the leader's word that there was nothing newer; that of a deletion can expire too.
func Observe(e *kv.Entry, before KeyState, now time.Time) Observation {
	o := Observation{State: Absent, Revision: e.Revision, Heard: now}
	switch {
	case e.Operation == kv.Put:
		o.State = Present
	case e.Operation == kv.Expired && before != Absent:
		o.State, o.Silent = Expired, now
	}
	return o
}

// Overdue is when to give up a holder that does not renew: quiet after it was heard, and then the grace.
// Where the grace has not begun, at is when to read the key from the bucket's leader, whose answer begins
// it.
func (o *Observation) Overdue(quiet, grace time.Duration) (at time.Time, read bool) {
	switch {
	case !o.Silent.IsZero():
		return o.Silent.Add(grace), false
	case o.State == Expired:
		return o.Heard, true
	default:
		return o.Heard.Add(quiet), true
	}
}

// Comparison is what the bucket leader's answer to a read says beside the observation.
type Comparison uint8

// The comparisons.
const (
	Stale   Comparison = iota // nothing: what was heard meanwhile is newer
	Same                      // what was seen is still there
	Newer                     // there is something else
	Missing                   // there is nothing
)

// Compare judges the answer to a read that was sent at a time.
//
//   - The feed showed the key after the read was sent: the answer may be older, and counts only with a
//     higher revision.
//   - The feed was silent since: the answer counts, also with a lower revision. The bucket was deleted and
//     made anew then, and its revisions began again.
func (o *Observation) Compare(sent time.Time, found bool, revision uint64) Comparison {
	counts := o.State == Unknown || o.Heard.Before(sent)
	switch {
	case counts && found && o.State != Unknown && revision == o.Revision:
		return Same
	case found && (counts || revision > o.Revision):
		return Newer
	case !found && counts:
		return Missing
	default:
		return Stale
	}
}
