package emitter

import (
	"context"
	"errors"
	"time"

	"github.com/exesdb/subproxy/pkg/election"
	"github.com/exesdb/subproxy/pkg/event"
)

// Checkpoint is a record of the bucket of checkpoints, under the registration's key.
type Checkpoint struct {
	Sequence  uint64    `json:"seq"`               // of the store: everything up to here was acknowledged, or is not wanted
	Term      uint64    `json:"term"`              // of the leader that wrote it
	Emitter   string    `json:"emitter"`           // that leader's name
	Epoch     string    `json:"epoch"`             // which history of the store the sequence is of
	Witness   string    `json:"witness,omitempty"` // events of that history, which prove that it is what the stream holds; see witnessText
	UpdatedAt time.Time `json:"updated_at"`
	// Gap is what the subscription lost, while that is told.
	Gap *event.Gap `json:"gap,omitempty"`
}

const (
	// skipAfter is how many events of no interest a checkpoint lets pass before it moves over them, so that
	// a new leader need not look at them again.
	skipAfter    = 10_000
	checkpointIO = 5 * time.Second
	// finishWithin bounds the writing of checkpoints at the end: 10,000 take a tenth of a second.
	finishWithin = 2 * time.Second
	// answersWithin bounds the wait for acknowledgements before that.
	answersWithin = time.Second
)

func (l *leader) stamp() stamp {
	return stamp{l.lease.Term(), l.name, l.history.epoch, witnessText(l.history.ends(l.history.resetting))}
}

// write writes the checkpoints that moved, a batch at a time.
func (l *leader) write(now time.Time) {
	b := l.checkpoints.due(now, l.stamp())
	if len(b.subs) == 0 {
		return
	}
	l.work.Go(func() {
		ctx, cancel := l.within(checkpointIO, 4)
		defer cancel()
		results, anew := l.saved.put(ctx, b.writes)
		l.inbox.call(func() { l.wrote(b, results, anew) })
	})
}

func (l *leader) wrote(b batch, results []written, anew bool) {
	o := l.checkpoints.wrote(b, results, anew, l.lease.Term())
	for _, s := range o.stored {
		l.dropFormer(s)
		l.metrics.Checkpoints.Inc()
		if s.phase == placing {
			l.subs.ask(s, time.Now())
		}
	}
	if o.begins {
		l.log.Warn("checkpoints could not be written; what is acknowledged meanwhile is sent again after a change of leader", "subscriptions", o.failed, "error", o.sample)
	}
	if o.emptied {
		l.bucketEmptied(anew)
	}
	if o.later > 0 {
		l.stale(o.later)
	}
}

func (l *leader) bucketEmptied(anew bool) {
	l.log.Error("the bucket of checkpoints lost what it held; all are written again", "subscriptions", len(l.subs.byKey))
	l.checkpoints.writeAll(l.subs.byKey, anew)
}

// lookForBucket finds out whether the bucket of checkpoints is there, and writes all of them again where it
// was not.
func (l *leader) lookForBucket(now time.Time) {
	if !l.checkpoints.isBucketDue(now) {
		return
	}
	l.work.Go(func() {
		ctx, cancel := l.within(checkpointIO, 4)
		defer cancel()
		anew, err := l.saved.ensure(ctx)
		l.inbox.call(func() {
			l.checkpoints.looked()
			if err == nil && anew {
				l.bucketEmptied(true)
			}
		})
	})
}

// load reads the checkpoints of subscriptions that are new to this leader.
func (l *leader) load(ctx context.Context) {
	got := l.checkpoints.toRead()
	if len(got) == 0 {
		return
	}
	in := present{l.history.epoch, l.history.former, l.reader}
	resets := l.history.resets
	l.work.Go(func() {
		defer l.inbox.call(l.checkpoints.readEnded)
		l.saved.load(ctx, got, in, func(page []loaded) {
			l.inbox.call(func() { l.loaded(page, resets) })
		})
	})
}

func (l *leader) loaded(got []loaded, resets int) {
	now, by := time.Now(), l.stamp()
	l.sayOthers(got)
	for i := range got {
		s := got[i].sub
		if resets != l.history.resets && s.phase == loading { // they were held against a history that is no more
			l.checkpoints.want(s)
			continue
		}
		gap := s.loss.gap
		l.checkpoints.loaded(&got[i], by)
		if got[i].odd != nil && !s.checkpoint.placed {
			l.log.Error("a checkpoint can't be read; the position is the proxy's, or the start", "subscription", s.name, "error", got[i].odd)
		}
		if s.loss.gap != nil && s.loss.gap != gap {
			l.catchUp.gaps.news = true
		}
		if s.phase == loading {
			l.subs.ask(s, now)
		}
	}
}

// sayOthers says of subscriptions that are others than those which had their names before where they begin.
func (l *leader) sayOthers(got []loaded) {
	n := 0
	var first *loaded
	for i := range got {
		if c := &got[i]; c.other.key != "" && !c.found {
			if n++; first == nil {
				first = c
			}
		}
	}
	if n > 0 {
		l.log.Warn("another type or selector is another subscription: it begins where its start_version says, and the checkpoint of before stays; subproxy checkpoints lists and drops these",
			"subscriptions", n, "first", first.sub.name, "begins_at", first.sub.registration.StartVersion, "before", first.other.key, "sequence_before", first.other.sequence)
	}
}

// dropFormer deletes the checkpoint that another has taken the place of, unless a subscription is
// registered under its key.
func (l *leader) dropFormer(s *sub) {
	was := s.checkpoint.former
	s.checkpoint.former = former{}
	if other := l.subs.byKey[was.key]; was.key == "" || other != nil && other.phase != absent {
		return
	}
	l.log.Info("a subscription goes on under another spelling of its selector", "subscription", s.name, "key", s.key, "before", was.key, "sequence", s.sender.Acked)
	l.work.Go(func() { l.saved.drop(was) })
}

// finish writes what was acknowledged, before the lease goes to the next.
func (l *leader) finish(ctx context.Context) {
	if errors.Is(context.Cause(ctx), election.ErrDeposed) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishWithin+4*l.way())
	defer cancel()
	l.awaitAnswers(ctx)
	l.turn(ctx)
	for _, s := range l.subs.byKey {
		l.checkpoints.markBeginning(s)
	}
	l.checkpoints.abandonWrite()
	for l.nc.IsConnected() && ctx.Err() == nil {
		b := l.checkpoints.due(time.Now(), l.stamp())
		if len(b.subs) == 0 {
			break
		}
		results, anew := l.saved.put(ctx, b.writes)
		l.wrote(b, results, anew)
	}
	if n := len(l.checkpoints.dirty); n > 0 {
		l.log.Warn("not all checkpoints were written at the end", "subscriptions", n, "within", finishWithin, "perhaps_deposed", l.checkpoints.suspended)
	}
}

// awaitAnswers waits until the inbox has what proxies said before: those of an instance that stops beside
// this emitter, or just before it, have accepted what they were sent, and acknowledged it a moment ago.
func (l *leader) awaitAnswers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, answersWithin+l.way())
	defer cancel()
	if l.nc.FlushWithContext(ctx) != nil {
		return
	}
	heard := make(chan struct{})
	if l.nc.Barrier(func() { close(heard) }) != nil {
		return
	}
	select {
	case <-heard:
	case <-ctx.Done():
	}
}
