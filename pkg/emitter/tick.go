package emitter

import (
	"context"
	"time"
)

// forgetAfter is how long what is known of a subscription that is no longer registered is kept: a proxy that moves comes
// back sooner, and then nothing has to be read for it.
const forgetAfter = time.Minute

// tick does what is due by time.
func (l *leader) tick(ctx context.Context, now time.Time) {
	l.reporter.sayTrouble(now)
	if l.catchUp.tail == nil {
		l.reporter.tellEarly(now)
		return
	}
	l.adoptTerm(now)
	for s := range l.sessions.attended {
		l.checkProgress(s, now)
	}
	l.catchUp.skipGaps()
	l.remark(now)
	if l.checkpoints.begin(now, l.interval) {
		l.skip(skipAfter)
		l.lookForBucket(now)
		l.write(now)
	}
	if now.Sub(l.sweptAt) >= forgetAfter {
		l.sweptAt = now
		l.forget(now)
	}
	l.reporter.report(now)
}

// checkProgress looks after a subscription that was asked, is paused, or has events in flight.
func (l *leader) checkProgress(s *sub, now time.Time) {
	switch l.sessions.due(s, now) {
	case noNeed:
	case toBeAsked:
		l.ask(s, now)
	case toBeQuestioned:
		if s.checkpoint.placed && !s.checkpoint.durable { // where it began must be known, should what it has not accepted yet be removed
			l.checkpoints.mark(s)
		}
		l.question(s, now)
	}
}

func (l *leader) forget(now time.Time) {
	defer l.forgetOutlets()
	for key, s := range l.subs {
		if s.phase == absent && now.Sub(s.absentFrom) >= forgetAfter && !s.checkpoint.writing && !l.checkpoints.isMarked(s) {
			delete(l.subs, key)
			delete(l.byID, s.id)
		}
	}
}
