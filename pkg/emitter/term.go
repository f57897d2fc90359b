package emitter

import (
	"errors"
	"time"

	"github.com/exesdb/subproxy/pkg/election"
)

// stale is a proxy's word, or a checkpoint's, that there is a later leader. Only the lease tells: where it
// is still held, terms have gone back (the bucket was lost, or somebody announced a term by hand), and this
// leader's is raised above what was seen.
func (l *leader) stale(term uint64) {
	if term < l.subs.outbox.term.number || l.checkpoints.suspended {
		return
	}
	l.checkpoints.suspended = true
	l.log.Warn("a later term is known; looking whether this leader is deposed", "term", l.subs.outbox.term.number, "later", term)
	l.verify(term)
}

// verify keeps the leader from writing checkpoints until it is known whether it still leads: it must not
// write over what a later one wrote.
func (l *leader) verify(term uint64) {
	l.work.Go(func() {
		ctx, cancel := l.within(2*time.Second, 2)
		defer cancel()
		err := l.lease.RaiseTerm(ctx, term)
		l.inbox.call(func() {
			switch {
			case err == nil:
				l.checkpoints.suspended = false
				l.adoptTerm(time.Now())
			case errors.Is(err, election.ErrDeposed): // the context ends
			case errors.Is(err, election.ErrLastTerm):
				l.checkpoints.suspended = false
				l.log.Error("the lease can't be renewed with a later term", "error", err)
			default: // it is not known yet
				l.verify(term)
			}
		})
	})
}
