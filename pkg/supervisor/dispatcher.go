package supervisor

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/rebalance"
	"github.com/exesdb/subproxy/pkg/registrar"
)

// A cluster event is acted on at once. More of them than eventBurst in a short time are merged, one round
// every eventInterval: leaders change in seconds, so a faster sequence is a flood, and costs a handful of
// rounds.
const (
	eventBurst    = 4
	eventInterval = 200 * time.Millisecond
)

// release is a record to be deleted, or offered to another instance, once what the proxy's sink has in hand
// is done with: the next holder then begins after it.
type release struct {
	kv.Write
	since   time.Time // zero: package rebalance tells how long it took
	drained <-chan struct{}
	from    *delivery.Endpoint // where its events came in; nil: nowhere
	offered bool               // to another instance, and not deleted
}

// dispatcher has attempts made, and records released: it queues what is to be done, and hands over no more
// than can be under way. It belongs to the loop's goroutine, but for launched.
type dispatcher struct {
	*roster
	ctx context.Context // of the loop's run

	priority []*managed // admitted attempts, not yet handed to the registrar, that operators wait for
	unheld   []*managed // the same, of subscriptions that nobody holds
	ready    []*managed // all others
	releases []release

	unreleased []kv.Write // of what is no longer configured: they failed
	releaseAt  time.Time  // when they are tried again

	batches  registrar.Batches
	launched atomic.Int32   // batches handed over and not ended
	flight   int            // attempts and releases handed over and not ended
	rounds   int            // attempts not ended that belong to the event round under way
	limit    *rate.Limiter  // of event rounds
	work     sync.WaitGroup // what runs beside the loop
}

func newDispatcher(o *roster) *dispatcher {
	return &dispatcher{roster: o, limit: rate.NewLimiter(rate.Every(eventInterval), eventBurst)}
}

// release deletes a proxy's record, or offers it to the instance that requested it, once the sink has
// nothing in hand. From is where its events came in; nil: nowhere.
func (d *dispatcher) release(it *managed, from *delivery.Endpoint, offered bool, now time.Time) {
	p := &it.proxy
	w := kv.Write{Key: it.key, Revision: p.Record.Revision, Incarnation: max(p.Record.Incarnation, p.Record.Claim), Term: d.inbox.fence.Term()}
	r, busy := release{Write: w, drained: it.busy, from: from, offered: offered}, it.busy
	draining := !isClosed(busy)
	if offered {
		d.transfers.Note(rebalance.Input{Kind: rebalance.Released, Key: it.key, Draining: draining}, now)
	} else {
		r.since = now
	}
	d.releases = append(d.releases, r)
	if draining {
		d.work.Go(func() {
			<-busy // closed within drainWithin
			d.inbox.signal()
		})
	}
}

// mayStartRound reports whether pending cluster events may be acted on now: not while a round is under way,
// and not faster than the limit.
func (d *dispatcher) mayStartRound(now time.Time, wake *time.Time) bool {
	if !d.inbox.eventPending() {
		return false
	}
	if d.flight > 0 {
		sooner(wake, d.batches.GiveUp(now, d.registrar.Patience(d.settings.Load().VerificationTimeout/2)))
	}
	if d.rounds > 0 {
		return false
	}
	if d.limit.AllowN(now, 1) {
		return true
	}
	sooner(wake, now.Add(eventInterval/4))
	return false
}

// noteDrained takes what is to be offered out of the releases.
func (d *dispatcher) noteDrained(now time.Time) {
	if len(d.releases) == 0 || d.retired.Load() {
		return
	}
	d.releases = slices.DeleteFunc(d.releases, func(r release) bool {
		if !r.offered || !isClosed(r.drained) {
			return false
		}
		offer := rebalance.Offer{Key: r.Key, Revision: r.Revision, Incarnation: r.Incarnation}
		if r.from != nil {
			offer.At = r.from.Position()
		}
		d.transfers.Note(rebalance.Input{Kind: rebalance.Drained, Offer: offer}, now)
		return true
	})
}

// reclaim deletes the records of what was offered and not accepted.
func (d *dispatcher) reclaim(offers []rebalance.Offer) {
	for _, o := range offers {
		w := kv.Write{Key: o.Key, Revision: o.Revision, Incarnation: o.Incarnation, Term: d.inbox.fence.Term()}
		d.releases = append(d.releases, release{Write: w})
	}
}
