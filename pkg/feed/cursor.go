package feed

import "time"

// behindFor is how long a stream must be seen to end before our last sequence until it is believed.
const behindFor = 200 * time.Millisecond

// maxAbsentPolls is how many polls in a row ask again after messages that the leader said are gone.
const maxAbsentPolls = 3

// action is what the feed has to do.
type action int

const (
	drop     action = iota // known already
	deliver                // next in order
	fill                   // something up to cursor.target is missing: read the stream from last+1
	suspect                // the stream may have gone back: look at once
	settled                // everything that the stream has was delivered
	verify                 // compare the last message with the leader's
	again                  // look again after behindFor
	renamed                // of another creation time: compare what was seen with what is there
	wentBack               // an earlier state of the same stream
)

func (a action) String() string {
	return [...]string{"drop", "deliver", "fill", "suspect", "settled", "verify", "again", "renamed", "went back"}[a]
}

// cursor is the place in the stream and the rules that move it. It moves only over messages it was shown,
// and past missing ones only when shown a later one by a reader that passed them (see the package comment).
type cursor struct {
	created  time.Time // creation of the stream followed, as it was told last
	last     uint64    // last sequence delivered, or the one before the first wanted
	at       time.Time // when last was stored; zero where that is not known
	target   uint64    // highest sequence known to have been given out
	live     uint64    // highest sequence heard live
	ordered  bool      // the live source skips only what is gone, so its jumps are no gaps
	trustOld bool      // the leader itself has messages older than the stream (a mirror, a restored backup)

	behind      time.Time // when the stream was first seen to end before last
	absentUpTo  uint64    // the leader has nothing in (last, absentUpTo]
	absentPolls int       // polls since that asked about these
	lastAtPoll  uint64    // last, at the poll before: tells an ordered source that moves from one that stands
}

// hear judges a live message.
func (c *cursor) hear(seq uint64, stored time.Time) action {
	back := seq <= c.live
	c.live = max(c.live, seq)
	switch {
	case seq <= c.last && (back || !c.at.IsZero() && stored.After(c.at)):
		return suspect
	case seq <= c.last:
		return drop
	case (c.ordered || seq == c.last+1) && !c.older(stored):
		return deliver
	}
	c.target = max(c.target, seq)
	return fill
}

// older reports whether a message was stored before its stream existed. It then belongs to a deleted stream
// of the same name, which a server that has not heard of the deletion still serves; only the leader is
// believed.
func (c *cursor) older(stored time.Time) bool {
	return !c.trustOld && stored.Before(c.created)
}

// advance moves over a message about to be delivered.
func (c *cursor) advance(seq uint64, stored time.Time) {
	c.last, c.at = seq, stored
	c.target = max(c.target, seq)
	c.absentUpTo, c.absentPolls = 0, 0
}

// believe notes that the leader itself has a message stored then.
func (c *cursor) believe(stored time.Time) {
	if c.older(stored) {
		c.trustOld = true
	}
}

// nothing notes that the leader has nothing after last, up to the target. It doesn't move the cursor:
// should a deposed leader have said so, a later reading still finds what is there.
func (c *cursor) nothing() {
	if c.absentUpTo != c.target {
		c.absentUpTo, c.absentPolls = c.target, 0
	}
	c.absentPolls++
	c.target = c.last
}

// look judges what the leader says of the stream. sent is when it was asked, and lastThen is what last was
// then.
func (c *cursor) look(t tail, sent time.Time, lastThen uint64, now time.Time) action {
	moves := c.ordered && c.last != c.lastAtPoll
	c.lastAtPoll = c.last
	switch {
	case !t.created.Equal(c.created):
		return renamed
	case t.last < lastThen:
		if c.behind.IsZero() {
			c.behind = now
		} else if sent.Sub(c.behind) >= behindFor {
			return wentBack
		}
		return again
	}
	c.behind = time.Time{}
	switch {
	case t.last > c.last && t.last == c.absentUpTo && c.absentPolls >= maxAbsentPolls:
		return settled
	case t.last > c.last && moves:
		return drop
	case t.last > c.last:
		c.target = max(c.target, t.last)
		return fill
	case t.last == c.last && !c.at.IsZero() && !t.at.Equal(c.at):
		return verify
	}
	return settled
}

// tail is the end of the stream as its leader sees it.
type tail struct {
	created time.Time
	last    uint64
	at      time.Time // when last was stored
}
