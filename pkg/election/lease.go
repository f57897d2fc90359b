package election

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/exesdb/subproxy/pkg/event"
)

// Vacancy says why there was no leader when one was elected.
type Vacancy string

// The vacancies.
const (
	VacantFirst    Vacancy = "first"    // none was known before
	VacantResigned Vacancy = "resigned" // the lease was deleted, by its holder or by hand
	VacantExpired  Vacancy = "expired"  // the lease was not renewed
	VacantLost     Vacancy = "lost"     // the bucket, or what was in it, is gone
)

// Lease is a leadership. Its methods may be called from any goroutine, also after it ended.
type Lease struct {
	held     atomic.Pointer[LeaderRecord]
	witness  atomic.Pointer[string] // to be written with the next renewal; nil: as it is
	previous LeaderRecord
	vacancy  Vacancy
	election *Election
	ended    chan struct{} // closed when the lease is held no more
}

// Term is the leadership's term. It is above that of every leader before, and may rise: after RaiseTerm,
// and where the lease had vanished and was written again.
func (l *Lease) Term() uint64 { return l.held.Load().Term }

// Epoch is what the last SetEpoch set, of this leader or of one before.
func (l *Lease) Epoch() string { return l.held.Load().Epoch }

// Witness is what the last SetEpoch or Remember set that was written, of this leader or of one before.
func (l *Lease) Witness() string { return l.held.Load().Witness }

// Previous is the leader before, and why it no longer was one. The record is zero where none is known.
func (l *Lease) Previous() (LeaderRecord, Vacancy) { return l.previous, l.vacancy }

// SetEpoch writes the epoch to the lease, and the witness of it.
func (l *Lease) SetEpoch(ctx context.Context, epoch, witness string) error {
	return l.renew(ctx, "set epoch", update{epoch: &epoch, witness: witness})
}

// Remember has the witness written with the next renewal.
func (l *Lease) Remember(witness string) { l.witness.Store(&witness) }

// RaiseTerm renews the lease with a term above the one given: it is for when a higher term has been seen
// although this is the valid lease, since the bucket was lost. Nil says that the lease was held at some
// time during the call. A renewal that fails is tried again until ctx ends; ErrDeposed says that the lease
// is lost.
func (l *Lease) RaiseTerm(ctx context.Context, over uint64) error {
	if over >= event.MaxTerm {
		return fmt.Errorf("raise term over %d: %w", over, ErrLastTerm)
	}
	return l.renew(ctx, "raise term", update{term: over})
}

// renewal is one that somebody waits for.
type renewal struct {
	update
	lease *Lease
	done  chan error // holds the one answer
}

func (l *Lease) renew(ctx context.Context, what string, u update) error {
	r := renewal{update: u, lease: l, done: make(chan error, 1)}
	err := ErrDeposed
	if l.election.client.Call(ctx, l.ended, func() (done bool) { return l.election.renew(r) }) {
		select {
		case err = <-r.done:
		case <-ctx.Done():
			err = ctx.Err()
		}
	} else if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
