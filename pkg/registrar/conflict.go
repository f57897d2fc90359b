package registrar

import (
	"context"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
)

// resolveRaces reads who won each lost race, and returns the attempts to write again.
func (b *batch) resolveRaces(ctx context.Context, lost []int) (again []int) {
	for _, found := range b.winners(ctx, lost) {
		i, a := found.index, &b.attempts[found.index]
		if found.err != nil {
			b.results[i].Err = fmt.Errorf("register %s: %w: %w", a.Subscription, kv.ErrConflict, found.err)
			continue
		}
		if found.ok && found.entry.Revision == a.Revision {
			// The record that the write was conditional on is still there: the leader has proposed another
			// write and not committed it. What is there is not that write, even where it is this instance's
			// own; without a quorum the races run out.
			again = append(again, i)
			continue
		}
		next, better := resolve(found.entry, found.ok, b.Owner, b.Members(), a)
		a.Term = max(a.Term, next.term)
		if better {
			b.results[i].Outcome = proxy.Outcome{Superseded: true, Revision: next.revision, Incarnation: next.incarnation, By: next.owner}
			continue
		}
		a.Revision, a.Incarnation, a.Known = next.revision, next.incarnation, true
		again = append(again, i)
	}
	return again
}

// claim is what an instance has, or may write, under a key.
type claim struct {
	revision    uint64 // of the record, or to be conditional on
	incarnation uint64
	term        uint64             // of the record that was found
	owner       registration.Owner // of a better claim
}

// resolve decides who is right after a conflict. Found is what the bucket holds now (ok false: nothing);
// tried is the attempt that lost. Either the record that was found is the better claim, and is returned, or
// what to write over it is.
//
//   - Nothing, or a marker: write again. A marker of a release says which incarnation was released; incarnations never go
//     back while anybody remembers.
//   - A record that can't be read: write again.
//   - A record of this instance: an earlier attempt wrote it, whose acknowledgement came late or never. It is written
//     again, since it has that attempt's term, cause and deliver subject.
//   - Another's record, and the attempt knew nothing of the record that it tried to replace, so that it has no claim to
//     compare yet: where subscriptions are shared an owner that may live has the better claim; else the attempt is
//     written again, as the one that came later.
//   - Another's record of the same incarnation or a higher one: the better claim.
//   - Another's record of a lower incarnation: write again.
//
// Two instances that both replace a record of incarnation n both write n+1; only one of the writes
// succeeds, and the other instance finds n+1 there, which is not below its own: the better claim. So of any
// number of instances that start together, or that a zombie is among, exactly one goes on writing.
func resolve(found kv.Entry, ok bool, own registration.Owner, members *placement.Members, tried *Attempt) (next claim, better bool) {
	next = claim{revision: found.Revision, incarnation: tried.Incarnation}
	if !ok || found.Operation != kv.Put {
		next.incarnation = max(tried.Incarnation, found.Incarnation+1)
		return next, false
	}
	record, err := registration.Decode(found.Key, found.Data)
	if err != nil {
		return next, false
	}
	next.term = record.Term
	theirs := claim{revision: found.Revision, incarnation: record.Incarnation, term: record.Term, owner: record.Owner}
	switch {
	case record.Owner.ID == own.ID:
		if record.Incarnation > tried.Incarnation { // of a proxy that was removed and has come back
			next.incarnation = record.Incarnation + 1
		}
		return next, false
	case !tried.Known && members != nil && members.LivenessOf(record.Owner) != placement.Gone:
		return theirs, true
	case !tried.Known:
		next.incarnation = max(tried.Incarnation, record.Incarnation+1)
		return next, false
	case record.Incarnation >= tried.Incarnation:
		return theirs, true
	default:
		return next, false
	}
}

type winner struct {
	index int
	entry kv.Entry
	ok    bool
	err   error
}

// winnersWait is what a replica may take that may hang; the leader is asked instead then.
const winnersWait = 500 * time.Millisecond

// winners reads what the bucket holds for the attempts: many at once from any replica, and from the leader
// what a replica shows at a revision that the conflict has already ruled out.
func (b *batch) winners(ctx context.Context, lost []int) []winner {
	found := make([]winner, len(lost))
	for from := 0; from < len(lost) && len(lost) > 1; from += kv.MaxGetLast {
		part := lost[from:min(from+kv.MaxGetLast, len(lost))]
		keys, index := make([]string, len(part)), make(map[string]int, len(part))
		for n, i := range part {
			keys[n], index[b.attempts[i].Key] = b.attempts[i].Key, from+n
		}
		// What fails here is read from the leader below.
		ctx, cancel := context.WithTimeout(ctx, b.Bucket.Patience(winnersWait))
		_ = b.Bucket.GetLast(ctx, keys, func(e kv.Entry) {
			if n, ok := index[e.Key]; ok {
				found[n].entry, found[n].ok = e, true
			}
		})
		cancel()
	}
	// A leader that does not answer for one is not asked for the others: each would wait for a time-out of
	// its own.
	var away error
	for n, i := range lost {
		w := &found[n]
		w.index = i
		if w.ok && w.entry.Revision > b.attempts[i].Revision {
			continue
		}
		if w.err = away; away == nil {
			w.entry, w.ok, w.err = b.Bucket.GetFromLeader(ctx, b.attempts[i].Key)
			away = w.err
		}
	}
	return found
}
