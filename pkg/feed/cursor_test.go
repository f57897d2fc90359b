package feed

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func storedAt(seq uint64) time.Time { return epoch.Add(time.Duration(seq) * time.Millisecond) }

func TestLiveMessagesAreJudgedBySequence(t *testing.T) {
	for name, tc := range map[string]struct {
		c      cursor
		seq    uint64
		stored time.Time
		want   action
	}{
		"next":                         {cursor{last: 4, live: 4}, 5, storedAt(5), deliver},
		"jump":                         {cursor{last: 4, live: 4}, 6, storedAt(6), fill},
		"jump of an ordered source":    {cursor{last: 4, live: 4, ordered: true}, 6, storedAt(6), deliver},
		"filled before":                {cursor{last: 4, live: 2}, 3, storedAt(3), drop},
		"back":                         {cursor{last: 4, live: 4}, 1, storedAt(1), suspect},
		"stored later than the last":   {cursor{last: 4, at: storedAt(4)}, 1, storedAt(5), suspect},
		"older than the stream":        {cursor{last: 4, live: 4, created: epoch}, 5, epoch.Add(-1), fill},
		"older, as the leader's are":   {cursor{last: 4, live: 4, created: epoch, trustOld: true}, 5, epoch.Add(-1), deliver},
		"stored as it was created":     {cursor{created: epoch}, 1, epoch, deliver},
		"first wanted is not there":    {cursor{last: 99}, 1, storedAt(1), drop},
		"last message a second time":   {cursor{last: 4, live: 4}, 4, storedAt(4), suspect},
		"beyond an unfinished filling": {cursor{last: 4, live: 9, target: 9}, 10, storedAt(10), fill},
	} {
		t.Run(name, func(t *testing.T) {
			c := tc.c
			if got := c.hear(tc.seq, tc.stored); got != tc.want {
				t.Errorf("hear = %s, want %s", got, tc.want)
			}
			if tc.want == fill && c.target < tc.seq {
				t.Errorf("target = %d", c.target)
			}
		})
	}
}

func TestPollsAreJudgedByTheStreamsEnd(t *testing.T) {
	now := epoch.Add(time.Hour)
	for name, tc := range map[string]struct {
		c        cursor
		t        tail
		lastThen uint64
		want     action
	}{
		"nothing new":                   {cursor{last: 4, at: storedAt(4)}, tail{last: 4, at: storedAt(4)}, 4, settled},
		"something lost":                {cursor{last: 4}, tail{last: 5}, 4, fill},
		"live was faster than the poll": {cursor{last: 9}, tail{last: 5}, 4, settled},
		"another stream":                {cursor{last: 4, created: epoch}, tail{created: now, last: 9}, 4, renamed},
		"shorter, once":                 {cursor{last: 4}, tail{last: 3}, 4, again},
		"shorter, since just now":       {cursor{last: 4, behind: now.Add(-behindFor / 2)}, tail{last: 3}, 4, again},
		"shorter, twice":                {cursor{last: 4, behind: now.Add(-behindFor)}, tail{last: 3}, 4, wentBack},
		"same length, other time":       {cursor{last: 4, at: storedAt(4)}, tail{last: 4, at: storedAt(5)}, 4, verify},
		"end gone, asked enough":        {cursor{last: 4, absentUpTo: 6, absentPolls: maxAbsentPolls}, tail{last: 6}, 4, settled},
		"end gone, asked once":          {cursor{last: 4, absentUpTo: 6, absentPolls: 1}, tail{last: 6}, 4, fill},
		"end gone, then more":           {cursor{last: 4, absentUpTo: 6, absentPolls: maxAbsentPolls}, tail{last: 7}, 4, fill},
		"ordered source at work":        {cursor{last: 4, lastAtPoll: 3, ordered: true}, tail{last: 9}, 4, drop},
		"ordered source stands":         {cursor{last: 4, lastAtPoll: 4, ordered: true}, tail{last: 9}, 4, fill},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.c.look(tc.t, now, tc.lastThen, now); got != tc.want {
				t.Errorf("look = %s, want %s", got, tc.want)
			}
		})
	}
	c := cursor{last: 4, behind: now}
	if c.look(tail{last: 4}, now, 4, now); !c.behind.IsZero() {
		t.Error("a stream that caught up is still held to be behind")
	}
}

// world is a stream: every replica has applied some prefix of its operations, the leader most.
type world struct {
	ops     []op
	applied int // by the leader
}

type op struct {
	remove bool
	seq    uint64 // stored or removed
}

// contents is what a replica has that applied n operations, in order, and its last sequence.
func (w *world) contents(n int) (seqs []uint64, last uint64) {
	removed := map[uint64]bool{}
	for _, o := range w.ops[:n] {
		if o.remove {
			removed[o.seq] = true
		} else {
			last = o.seq
		}
	}
	for seq := uint64(1); seq <= last; seq++ {
		if !removed[seq] {
			seqs = append(seqs, seq)
		}
	}
	return seqs, last
}

// Whatever is lost, doubled or swapped on the live path, and however far behind the server that answers a
// read, the handler gets every message that remains once, in order, when it has been quiet for a few polls.
func TestEveryRemainingMessageIsDeliveredOnceInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{}
		c := cursor{created: epoch}
		var got []uint64
		take := func(seq uint64) {
			if n := len(got); n > 0 && got[n-1] >= seq {
				t.Fatalf("%d delivered after %d", seq, got[n-1])
			}
			c.advance(seq, storedAt(seq))
			got = append(got, seq)
		}
		// read is what the feed does on fill: a page from some replica, then the leader's word.
		read := func(lag func() int) {
			for c.last < c.target {
				seqs, _ := w.contents(max(0, w.applied-lag()))
				progress := false
				for _, seq := range seqs {
					if seq > c.last && !progress {
						take(seq) // pages of one message
						progress = true
					}
				}
				if progress {
					continue
				}
				late := 0
				if c.absentPolls == 0 { // a deposed leader may answer, but not for three polls
					late = lag()
				}
				seqs, _ = w.contents(max(0, w.applied-late))
				for _, seq := range seqs {
					if seq > c.last {
						take(seq)
						progress = true
						break
					}
				}
				if !progress {
					c.nothing() // ends the reading: target is last now
				}
			}
		}
		var seq uint64
		var flight []uint64 // republished, not yet arrived
		lag := func() int { return rapid.IntRange(0, 6).Draw(t, "lag") }
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0, 1: // stored and republished
				seq++
				w.ops = append(w.ops, op{seq: seq})
				w.applied = len(w.ops)
				flight = append(flight, seq)
			case 2: // removed
				if seq > 0 {
					w.ops = append(w.ops, op{remove: true, seq: rapid.Uint64Range(1, seq).Draw(t, "removed")})
					w.applied = len(w.ops)
				}
			case 3: // arrives: in any order, or not at all, or again
				if len(flight) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(flight)-1).Draw(t, "arrives")
				s := flight[i]
				if !rapid.Bool().Draw(t, "again") {
					flight = append(flight[:i:i], flight[i+1:]...)
				}
				if rapid.Bool().Draw(t, "lost") {
					continue
				}
				switch c.hear(s, storedAt(s)) {
				case deliver:
					take(s)
				case fill:
					read(lag)
				}
			case 4: // polled
				if _, last := w.contents(max(0, w.applied-lag())); c.look(tail{created: epoch, last: last}, epoch, c.last, epoch) == fill {
					read(lag)
				}
			}
		}
		for range maxAbsentPolls + 1 {
			if _, last := w.contents(w.applied); c.look(tail{created: epoch, last: last}, epoch, c.last, epoch) == fill {
				read(func() int { return 0 })
			}
		}
		seen := map[uint64]bool{}
		for _, s := range got {
			seen[s] = true
		}
		remaining, _ := w.contents(w.applied)
		for _, s := range remaining {
			if !seen[s] {
				t.Fatalf("%d was never delivered; got %v", s, got)
			}
		}
	})
}
