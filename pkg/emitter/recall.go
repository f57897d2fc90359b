package emitter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/exesdb/subproxy/pkg/election"
	"github.com/exesdb/subproxy/pkg/feed"
)

// historian finds out which history of the store a stream holds, and has the lease say so. It waits for
// answers, so it works beside the leader's loop, but for recall, which the loop begins with.
type historian struct {
	*outside
	history *history
	work    *sync.WaitGroup
	ended   <-chan struct{} // closed when the leader ends
}

// recall finds out, before anything is sent, which history of the store the stream holds: the one that the
// lease says, or the newest checkpoint, unless it is compared with what proves that one and is found to be
// another, or to have gone back.
func (h *historian) recall(ctx context.Context, reader reader, created time.Time) error {
	h.history.created = strconv.FormatInt(created.UnixNano(), 10)
	newest, err := h.newestCheckpoint(ctx)
	if err != nil {
		return err
	}
	recorded, proof := h.lease.Epoch(), []string{h.lease.Witness()}
	switch recorded {
	case "": // it was given back, or lost
		recorded, proof = newest.Epoch, []string{newest.Witness}
	case newest.Epoch:
		proof = append(proof, newest.Witness)
	}
	known := parseWitness(proof...)
	compared, err := h.compare(ctx, reader, known)
	if err != nil {
		return err
	}
	epoch, upTo := successor(recorded, h.history.created, compared)
	h.history.known.Add(known...)
	h.history.compared(recorded, epoch, compared)
	h.history.begin(epoch, upTo)
	switch {
	case recorded != "" && epoch != recorded:
		h.sayHistory(compared, upTo)
		if !h.setEpoch(epoch, witnessText(h.history.known.List(0))) {
			return fmt.Errorf("write epoch %s: %w", epoch, election.ErrDeposed)
		}
	case epoch != h.lease.Epoch():
		witness := witnessText(h.history.known.List(0))
		h.work.Go(func() { h.setEpoch(epoch, witness) })
	}
	return nil
}

// newestCheckpoint is the one of the store that was written last; the zero value where there is none.
func (h *historian) newestCheckpoint(ctx context.Context) (newest Checkpoint, err error) {
	err = h.persist(ctx, "the newest checkpoint can't be read yet", func() (err error) {
		newest, err = h.saved.newest(ctx)
		return err
	})
	return newest, err
}

// compare asks until it is answered, or ctx ends.
func (h *historian) compare(ctx context.Context, r reader, known []feed.Witness) (c feed.Comparison, err error) {
	err = h.persist(ctx, "the store's stream can't be compared with what was delivered of it yet; nothing is sent before", func() (err error) {
		c, err = r.Compare(ctx, known)
		return err
	})
	return c, err
}

// persist does what it is given until that has no error, or ctx ends.
func (h *historian) persist(ctx context.Context, failing string, do func() error) error {
	say := rate.Sometimes{Interval: time.Minute}
	for {
		err := do()
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		say.Do(func() { h.log.Warn(failing, "error", err) })
		select {
		case <-time.After(firstAsk):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// checkHistory looks whether the stream has lost events that a proxy took, or a checkpoint knows of. The
// tail may also just be behind.
func (l *leader) checkHistory(delivered uint64) {
	if l.history.checking {
		return
	}
	l.history.checking = true
	reader, known, resets := l.reader, l.history.known.List(0), l.history.resets
	l.work.Go(func() {
		ctx, cancel := l.within(2*time.Second, 2*feed.Recorded)
		defer cancel()
		last, err := reader.Last(ctx)
		upTo := last // the same as far as it goes, where nothing says otherwise
		if err == nil && last < delivered {
			var c feed.Comparison
			if c, err = reader.Compare(ctx, known); c.Kinship != feed.Same {
				upTo = min(last, c.Shared)
			}
		}
		l.inbox.call(func() {
			l.history.checking = false
			if err == nil && last < delivered && l.catchUp.tail != nil && resets == l.history.resets {
				l.log.Error("the store's stream ends before events that were delivered: it went back to an earlier state", "last", last, "delivered", delivered, "same_up_to", upTo)
				l.newHistory(laterEpoch(creationIn(l.history.epoch), upTo), upTo)
			}
		})
	})
}

// reset is the feed's word that the stream is another, or went back.
func (l *leader) reset(reason error) {
	l.log.Warn("the store's stream may not be what it was; it is compared with what was delivered of it", "stream", l.stream, "reason", reason)
	for _, s := range l.subs.byKey {
		l.catchUp.detach(s)
	}
	for len(l.catchUp.passes) > 0 {
		l.catchUp.end(l.catchUp.passes[0])
	}
	l.catchUp.tail, l.catchUp.first = newSegment(0), 0
	l.reporter.strays.forget()
	l.history.unsure, l.history.heard = feed.Witnesses{}, feed.Witness{}
	l.doubt()
}

// level is the feed's word that it has shown all there is. Nothing is sent before it is known what that has
// in common with what was delivered.
func (l *leader) level(ctx context.Context) {
	if !l.history.resetting {
		return
	}
	resets, known := l.history.resets, l.history.known.List(0)
	l.work.Go(func() {
		info, err := l.streamInfo(ctx)
		if err != nil {
			return // the leader ends
		}
		reader := feed.NewReader(l.js, info)
		compared, err := l.historian.compare(ctx, reader, known)
		if err != nil {
			return
		}
		l.inbox.call(func() {
			if resets != l.history.resets {
				return
			}
			if compared.Kinship == feed.Unproven { // and the feed knows better
				compared.Kinship = feed.Another
			}
			l.reader = reader
			l.history.created = strconv.FormatInt(info.Created.UnixNano(), 10)
			epoch, upTo := successor(l.history.epoch, l.history.created, compared)
			l.historian.sayHistory(compared, upTo)
			l.history.compared(l.history.epoch, epoch, compared)
			l.newHistory(epoch, upTo)
		})
	})
}

// sayHistory says what became of the store's history.
func (h *historian) sayHistory(c feed.Comparison, upTo uint64) {
	switch c.Kinship {
	case feed.Same:
		h.log.Info("the store's stream holds what was delivered of it, and goes on", "stream", h.stream)
	case feed.Shorter, feed.Forked:
		h.log.Error("the store's stream went back to an earlier state; what lies after is new", "stream", h.stream, "same_up_to", upTo)
	default:
		h.log.Error("the store's stream is not what it was; sequences begin anew", "stream", h.stream)
	}
}

// newHistory begins an epoch, or goes on with the one that there is: what lies after last is new, whatever
// was sent under the same sequences before. The lease knows of it first: a leader after this one that went
// on with the epoch before would make the proxies forget once more.
func (l *leader) newHistory(epoch string, last uint64) {
	l.doubt()
	resets := l.history.resets
	witness := witnessText(slices.DeleteFunc(l.history.known.List(0), func(w feed.Witness) bool { return w.Sequence > last }))
	l.work.Go(func() {
		if !l.historian.setEpoch(epoch, witness) {
			return
		}
		l.inbox.call(func() {
			if resets != l.history.resets {
				return // it is another stream again
			}
			another := epoch != l.history.epoch
			l.history.resetting = false
			l.history.begin(epoch, last)
			for _, s := range l.subs.byKey {
				if !another {
					continue
				}
				s.since = s.number + 1
				s.sender = NewSender(max(min(s.sender.Acked, last), s.startPosition()))
				l.catchUp.gaps.forgetLoss(s)
				s.loss = loss{fresh: s.sender.Acked == s.startPosition(), gap: s.loss.gap}
				if s.phase != loading {
					l.checkpoints.mark(s)
				}
			}
			l.subs.askAll(time.Now())
		})
	})
}

// setEpoch reports false where the leader ends before the lease has the epoch.
func (h *historian) setEpoch(epoch, witness string) bool {
	for {
		ctx, cancel := h.within(2*time.Second, 2)
		err := h.lease.SetEpoch(ctx, epoch, witness)
		cancel()
		switch {
		case err == nil:
			return true
		case errors.Is(err, election.ErrDeposed):
			return false
		}
		h.log.Warn("the new epoch could not be written to the lease yet; nothing is sent before", "error", err)
		select {
		case <-h.ended:
			return false
		case <-time.After(firstAsk):
		}
	}
}

// seen takes messages that the feed saw the stream to have.
func (l *leader) seen(all []feed.Witness) {
	l.history.see(all, l.history.resetting)
	if !l.history.resetting {
		l.lease.Remember(witnessText(l.history.known.List(l.history.first)))
	}
}

// doubt sends nothing more to anybody until the history is known.
func (l *leader) doubt() {
	l.history.resetting = true
	l.history.resets++
	l.catchUp.gaps.open = nil
	l.subs.pauseAll(time.Now())
}
