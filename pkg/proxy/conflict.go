package proxy

import "github.com/exesdb/subproxy/pkg/registry"

// verdict is what to do about a write that lost its race.
type verdict uint8

const (
	writeAgain verdict = iota // over what is there, which has no better claim
	goOn                      // what is there is this attempt's own record: only its acknowledgement was lost
	standAside                // another instance has the better claim
)

// resolve decides who is right after a conflict. Found is what the bucket holds now (ok false: nothing). Incarnation is
// what this attempt tried to write, and informed says that it knew the record it tried to replace: an attempt that knew
// nothing has no claim to compare yet, and writes again as the one that came later.
//
// Two instances that both replace a record of incarnation n both write n+1; only one of the writes succeeds, and the
// other instance finds n+1 there, which is not below its own: it stands aside. So of any number of instances that
// start together, or that a zombie is among, exactly one goes on writing.
func resolve(found registry.Entry, ok bool, own registry.Owner, incarnation uint64, informed bool) (v verdict, next job) {
	next = job{revision: found.Revision, incarnation: incarnation}
	if !ok || found.Operation != registry.Put {
		return writeAgain, next
	}
	record, err := found.Registration()
	switch {
	case err != nil:
		return writeAgain, next
	case record.Owner.ID == own.ID && record.Incarnation == incarnation:
		return goOn, next
	case record.Owner.ID == own.ID:
		return writeAgain, next
	case !informed:
		next.incarnation = max(incarnation, record.Incarnation+1)
		return writeAgain, next
	case record.Incarnation >= incarnation:
		next.incarnation, next.by = record.Incarnation, record.Owner
		return standAside, next
	default:
		return writeAgain, next
	}
}
