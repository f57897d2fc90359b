package emitter

import (
	"encoding/json"
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
)

const (
	// DefaultCheckpointInterval is how often checkpoints are written: what was acknowledged since is sent
	// again after a leader was killed, and dropped by proxies that live.
	DefaultCheckpointInterval = 200 * time.Millisecond
	// maxWrites bounds how many are written together; with the interval it bounds the rate.
	maxWrites = 2000
	// pointsInterval is how often it is looked whether the bucket of checkpoints is there: nothing may be
	// written to it for long.
	pointsInterval = 5 * time.Second
)

// checkpoints says which checkpoints of a leader's subscriptions are to be read, which have moved and are
// to be written, and what follows from a write's results. It is a plain value: it reads and writes nothing,
// and knows no clock. The leader does what due, isBucketDue and toRead say, one write and one read at a
// time, and tells what came of it. The leader's loop owns it.
//
// Invariant: a checkpoint is written on the condition that the bucket holds what was seen there last, and
// never while a later term is suspected. So a leader that is deposed writes over no checkpoint of the
// leader after it.
type checkpoints struct {
	dirty     map[*sub]struct{} // moved since they were written
	unread    []*sub            // to be read
	reading   bool
	writing   bool // or the bucket is being looked at
	suspended bool // a later term was seen, and it is not known yet whether this leader is deposed
	failing   bool // the last write failed in part
	restored  int  // were missing, and are what the proxies took; since the last report
	voided    int  // were of another stream; since the last report
	wroteAt   time.Time
	lookedAt  time.Time // at the bucket
}

// savedPlace is what is known of one subscription's checkpoint.
type savedPlace struct {
	revision uint64 // of the record in the bucket; 0: there is none
	placed   bool   // where the subscription is in the store is known: by a record of this epoch, or because it began
	durable  bool   // the bucket had a record of this epoch
	writing  bool
	former   former // its checkpoint under another key, until it has one of its own
}

// stamp is what every checkpoint that a leader writes says beside its sequence.
type stamp struct {
	term                    uint64
	emitter, epoch, witness string
}

// mark notes that a subscription's checkpoint moved.
func (c *checkpoints) mark(s *sub) {
	if c.dirty == nil {
		c.dirty = map[*sub]struct{}{}
	}
	c.dirty[s] = struct{}{}
}

// markBeginning has it written where a subscription began that has events in flight: should what it has not
// accepted yet be removed from the stream, that is known then.
func (c *checkpoints) markBeginning(s *sub) {
	if s.checkpoint.placed && !s.checkpoint.durable && !s.sender.Idle() {
		c.mark(s)
	}
}

// isMarked reports whether a subscription's checkpoint moved and is not written yet.
func (c *checkpoints) isMarked(s *sub) bool {
	_, dirty := c.dirty[s]
	return dirty
}

// begin reports whether the interval since the last write is over, and begins the next.
func (c *checkpoints) begin(now time.Time, interval time.Duration) bool {
	if now.Sub(c.wroteAt) < interval {
		return false
	}
	c.wroteAt = now
	return true
}

// hurry ends the interval.
func (c *checkpoints) hurry() { c.wroteAt = time.Time{} }

// batch is checkpoints that are written together.
type batch struct {
	subs   []*sub
	writes []kv.Write
}

// due takes what is to be written next, at most maxWrites of it; it is empty while a write is under way, or
// a later term suspected.
func (c *checkpoints) due(now time.Time, by stamp) (b batch) {
	if c.writing || c.suspended {
		return b
	}
	n := min(len(c.dirty), maxWrites)
	b.subs, b.writes = make([]*sub, 0, n), make([]kv.Write, 0, n)
	for s := range c.dirty {
		if len(b.subs) == n {
			break
		}
		delete(c.dirty, s)
		if !s.checkpoint.placed {
			continue // its place in the stream is not known yet
		}
		data, _ := json.Marshal(Checkpoint{
			Sequence: s.sender.Acked, Term: by.term, Emitter: by.emitter, Epoch: by.epoch, Witness: by.witness, UpdatedAt: now.UTC(), Gap: s.loss.gap,
		})
		s.checkpoint.writing = true
		b.subs = append(b.subs, s)
		b.writes = append(b.writes, kv.Write{Key: s.key, Data: data, Revision: s.checkpoint.revision})
	}
	c.writing = len(b.subs) > 0
	return b
}

// written is what came of one write of a batch.
type written struct {
	revision uint64
	err      error
	found    *found // what the bucket has instead, where the write was refused for that
}

// found is what the bucket has in place of what a write was conditional on.
type found struct {
	ok  bool
	at  uint64 // revision; 0: nothing
	err error
	by  Checkpoint
}

// outcome is what follows from a batch's results.
type outcome struct {
	stored  []*sub
	failed  int
	sample  error // of those that failed
	begins  bool  // nothing failed the time before
	emptied bool  // the bucket lost what it held: all are to be written again
	later   uint64
}

// wrote takes the results of a batch; anew says that the bucket was gone and is made anew. A later term in
// the outcome is one that a checkpoint in the bucket has: the leader may be deposed.
func (c *checkpoints) wrote(b batch, results []written, anew bool, term uint64) (o outcome) {
	c.writing = false
	o.emptied = anew
	for i, s := range b.subs {
		r := &results[i]
		s.checkpoint.writing = false
		switch {
		case r.err == nil:
			s.checkpoint.revision, s.checkpoint.durable = r.revision, true
			o.stored = append(o.stored, s)
			continue
		case r.found != nil && r.found.err == nil:
			// A later leader's, this one's own of which the acknowledgement was lost, or somebody's by
			// hand.
			s.checkpoint.revision = r.found.at
			o.emptied = o.emptied || r.found.at == 0 && b.writes[i].Revision > 0 // not deleted, which leaves a marker
			if r.found.ok && r.found.by.Term > term {
				o.later = max(o.later, r.found.by.Term)
			}
		default:
			o.failed, o.sample = o.failed+1, r.err
		}
		c.mark(s)
	}
	o.begins = o.failed > 0 && !c.failing
	c.failing = o.failed > 0
	return o
}

// abandonWrite is for the end: what is under way is not waited for. It is conditional, as what is written
// after it.
func (c *checkpoints) abandonWrite() { c.writing = false }

// isBucketDue reports whether it is time to look whether the bucket is there, and begins that; looked ends
// it.
func (c *checkpoints) isBucketDue(now time.Time) bool {
	if c.writing || now.Sub(c.lookedAt) < pointsInterval {
		return false
	}
	c.lookedAt, c.writing = now, true
	return true
}

func (c *checkpoints) looked() { c.writing = false }

// writeAll marks every checkpoint: of those that rest nothing else would be written for a long time. Of a
// bucket that was made anew no revision is known.
func (c *checkpoints) writeAll(subs map[string]*sub, anew bool) {
	for _, s := range subs {
		if anew {
			s.checkpoint.revision = 0
		}
		if s.checkpoint.placed {
			c.mark(s)
		}
	}
}

// want notes that a subscription's checkpoint is to be read.
func (c *checkpoints) want(s *sub) { c.unread = append(c.unread, s) }

// toRead takes what is to be read next; it is empty while something is being read. readEnded ends it.
func (c *checkpoints) toRead() []loaded {
	if c.reading || len(c.unread) == 0 {
		return nil
	}
	got := make([]loaded, len(c.unread))
	for i, s := range c.unread {
		got[i].sub = s
	}
	c.unread, c.reading = nil, true
	return got
}

func (c *checkpoints) readEnded() { c.reading = false }

// isNews reports whether a checkpoint that was read is another than this leader knows: somebody wrote or
// deleted it. One that is missing without a trace was lost, and what is known stands for it.
func (c *checkpoints) isNews(got *loaded, by stamp) bool {
	own := got.found && got.point.Term == by.term && got.point.Emitter == by.emitter
	return got.revision > got.sub.checkpoint.revision && !own && !got.sub.checkpoint.writing
}

// loaded places a subscription where its checkpoint says, unless what is known already stands.
func (c *checkpoints) loaded(got *loaded, by stamp) {
	s := got.sub
	at := &s.checkpoint
	if at.placed && (s.phase != loading || !c.isNews(got, by)) {
		return
	}
	if at.placed { // somebody changed it since
		s.sender, at.placed, at.durable = NewSender(0), false, false
		delete(c.dirty, s)
	}
	at.revision, s.loss.gap = got.revision, got.point.Gap
	sequence, counts := got.point.placeIn(by.epoch, got.compared, s.startPosition())
	switch {
	case got.odd != nil: // the position is the proxy's, or the start
	case got.found && counts:
		s.sender, at.placed, at.durable = NewSender(sequence), true, true
	case got.found:
		// Of a stream that is no more: everything in this one is new.
		s.sender, at.placed, at.durable = NewSender(s.startPosition()), true, true
		s.loss.fresh = true
		c.voided++
	}
	if got.former.key != "" && at.placed {
		at.former = got.former
		c.mark(s)
	}
}
