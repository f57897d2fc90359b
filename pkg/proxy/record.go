package proxy

import (
	"time"

	"github.com/exesdb/subproxy/pkg/registration"
)

// Record is what the bucket is known to hold for a proxy's key.
type Record struct {
	Known       bool                // something was seen or written for the key
	Mine        bool                // the last record seen is this instance's, and its incarnation stands
	Revision    uint64              // last revision seen or written, markers included
	Incarnation uint64              // highest seen
	Claim       uint64              // highest that this instance wrote, or tried to write over a record that it knew
	renewTo     uint64              // the next claim is of this incarnation at least
	Holder      *registration.Owner // who was seen to hold the subscription, while this instance does not; nil: nobody
}

// NextIncarnation is what an attempt made now would write: the same while this instance holds the record,
// else one more than the highest seen.
func (r *Record) NextIncarnation() uint64 {
	if r.Mine {
		return max(r.Incarnation, r.renewTo)
	}
	return max(r.Incarnation+1, r.renewTo)
}

// supersededBy reports whether an entry that is newer takes the subscription away from this instance. The
// first record seen is what was there when this instance came, and it is here to replace it. Later ones are
// the claims of others who are about, against this one's own; of two that are equal, the one in the bucket
// won.
func (r *Record) supersededBy(n *News) bool {
	return r.Known && n.Readable && !n.Mine && (n.Incarnation > r.Claim || n.Incarnation == r.Claim && !r.Mine)
}

// raiseClaim makes the next claim higher than another instance's equal one that is mended. Two that both
// hold the record of an equal incarnation, as a purge of the bucket between their writes has it, would
// write over each other for ever.
func (r *Record) raiseClaim(incarnation uint64) {
	if r.Mine && incarnation > 0 && incarnation == r.Claim {
		r.renewTo = max(r.renewTo, incarnation+1)
	}
}

// Attempt is the attempt to register that is under way, or the last one.
type Attempt struct {
	UnderWay bool
	voided   bool // the bucket was found to be new meanwhile
	Cause    registration.Cause
	CauseAt  time.Time          // when the cause was seen
	again    registration.Cause // that came while it was under way: one more attempt follows
	againAt  *time.Time
	late     *News // the newest news of others that came while it was under way
}

// HandedOver is what the holder of a subscription says when it hands it over.
type HandedOver struct {
	At       registration.Position // where it stopped
	Revision uint64                // of its record: where somebody wrote since, At says nothing
}
