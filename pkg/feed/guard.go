package feed

import (
	"context"
	"fmt"
	"time"
)

const (
	// guardedFor is how long live messages are not believed after the last one that was foreign, and
	// doubtedFor after what one that was believed looks like: that the stream went back.
	guardedFor = 10 * time.Minute
	doubtedFor = time.Minute
	// guardPause is the time between two reads that foreign messages cause.
	guardPause = 20 * time.Millisecond
	// foreignAgain is how often the same is logged, and foreignProofs how many messages it takes.
	foreignAgain  = time.Hour
	foreignProofs = 3
)

// guard is what is known of messages under the stream's republish subject that another stream of the same
// name sends there: the other side of a leaf node has one, or another account. Nothing in such a message
// tells it from the stream's own but that the stream does not have it. So while there may be some, a live
// message says only that there is something to read. The zero value believes them all.
type guard struct {
	until  time.Time   // zero: live messages are believed
	recent [64]Witness // the last that were read, as far as they were read on guard
	next   int
	beyond uint64 // the highest sequence heard of that the stream's leader did not have
	heard  time.Time
	proofs int
	said   time.Time
}

func (g *guard) isUp() bool { return !g.until.IsZero() }

// raise has live messages not believed for so long.
func (g *guard) raise(now time.Time, d time.Duration) {
	if until := now.Add(d); until.After(g.until) {
		g.until = until
	}
}

// lower has them believed again where none was foreign for long.
func (g *guard) lower(now time.Time) {
	if g.isUp() && now.After(g.until) {
		said := g.said
		*g = guard{said: said}
	}
}

func (g *guard) note(w Witness) {
	g.recent[g.next%len(g.recent)] = w
	g.next++
}

// differs reports whether the stream was read to have another message at that sequence.
func (g *guard) differs(w Witness) bool {
	for i := range g.recent {
		if g.recent[i].Sequence == w.Sequence {
			return !g.recent[i].Time.Equal(w.Time)
		}
	}
	return false
}

// missed notes a message that the leader did not show.
func (g *guard) missed(seq uint64, now time.Time) {
	if seq > g.beyond {
		g.beyond, g.heard = seq, now
	}
}

// proven reports whether the leader, asked after such a message was heard, ends before it.
func (g *guard) proven(last uint64, asked time.Time) bool {
	is := g.beyond > last && asked.After(g.heard)
	if is || g.beyond <= last {
		g.beyond = 0
	}
	return is
}

// foreign notes a message that is proven to be another stream's, and reports whether to say so.
func (g *guard) foreign(now time.Time) (say bool) {
	g.raise(now, guardedFor)
	g.proofs++
	if say = g.proofs >= foreignProofs && (g.said.IsZero() || now.Sub(g.said) >= foreignAgain); say {
		g.said = now
	}
	return say
}

// hint takes a live message on guard: it is read from the stream, if it is there.
func (s *follower) hint(ctx context.Context, m Witness) {
	now := time.Now()
	switch {
	case m.Sequence <= s.cur.last && s.guard.differs(m):
		s.foreign(now)
	case m.Sequence <= s.cur.last:
		s.counts.duplicates.Add(1)
	case s.doubtful(), now.Before(s.retryAt):
		s.cur.target = max(s.cur.target, m.Sequence)
		s.timer.Reset(max(s.retryAt.Sub(now), time.Millisecond))
	default:
		s.cur.target = max(s.cur.target, m.Sequence)
		s.fill(ctx)
		switch {
		case s.guard.differs(m):
			s.foreign(now)
		case s.cur.last < m.Sequence && s.failures == 0:
			s.guard.missed(m.Sequence, now)
			s.retryAt = time.Now().Add(guardPause)
		}
	}
}

// foreign counts a message of another stream.
func (s *follower) foreign(now time.Time) {
	s.counts.foreign.Add(1)
	if !s.guard.foreign(now) {
		return
	}
	subject := republished(s.config)
	s.log.Warn("messages of another stream of the same name are heard, and ignored: another JetStream republishes to the same subject here; "+
		fmt.Sprintf("keep it apart by an account of its own, or by deny_imports and deny_exports of %s in the leaf node's remote (docs/operating.md)", subject),
		"subject", subject)
}
