package proxy

import (
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/registry"
)

// verdict is what to do about a write that lost its race.
type verdict uint8

const (
	writeAgain verdict = iota // over what is there, which has no better claim
	standAside                // another instance has the better claim
)

// resolve decides who is right after a conflict. Found is what the bucket holds now (ok false: nothing); tried is the
// attempt that lost. An attempt that knew nothing of the record it tried to replace (informed false) has no claim to compare
// yet: where subscriptions are shared it leaves them to an owner that may live, else it writes again as the one that came later.
//
// What was released was another incarnation, and its marker says which; incarnations never go back while anybody remembers.
//
// A record of this instance is what an earlier attempt of it wrote, whose acknowledgement came late or never: it is written
// again, since it has that attempt's term, cause and deliver subject.
//
// Two instances that both replace a record of incarnation n both write n+1; only one of the writes succeeds, and the
// other instance finds n+1 there, which is not below its own: it stands aside. So of any number of instances that
// start together, or that a zombie is among, exactly one goes on writing.
func resolve(found registry.Entry, ok bool, own registry.Owner, members *placement.Members, tried *job) (v verdict, next job) {
	next = job{revision: found.Revision, incarnation: tried.incarnation}
	if !ok || found.Operation != registry.Put {
		next.incarnation = max(tried.incarnation, found.Incarnation+1)
		return writeAgain, next
	}
	record, err := found.Registration()
	next.term = record.Term
	switch {
	case err != nil:
		return writeAgain, next
	case record.Owner.ID == own.ID:
		if record.Incarnation > tried.incarnation { // of a proxy that was removed and has come back
			next.incarnation = record.Incarnation + 1
		}
		return writeAgain, next
	case !tried.informed && members != nil && members.LivenessOf(record.Owner) != placement.Gone:
		next.incarnation, next.by = record.Incarnation, record.Owner
		return standAside, next
	case !tried.informed:
		next.incarnation = max(tried.incarnation, record.Incarnation+1)
		return writeAgain, next
	case record.Incarnation >= tried.incarnation:
		next.incarnation, next.by = record.Incarnation, record.Owner
		return standAside, next
	default:
		return writeAgain, next
	}
}
