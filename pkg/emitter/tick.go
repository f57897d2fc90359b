package emitter

import (
	"context"
	"time"
)

// forgetAfter is how long what is known of a subscription that is no longer registered is kept: a proxy
// that moves comes back sooner, and then nothing has to be read for it.
const forgetAfter = time.Minute

// tick does what is due by time.
func (l *leader) tick(ctx context.Context, now time.Time) {
	l.reporter.sayTrouble(now)
	if l.catchUp.tail == nil {
		l.reporter.tellEarly(now)
		return
	}
	l.catchUp.gaps.now = now
	l.adoptTerm(now)
	l.catchUp.way = l.subs.outbox.longestWay()
	for s := range l.subs.sessions.attended {
		l.subs.checkProgress(s, now)
	}
	l.catchUp.skipGaps()
	l.subs.outbox.remark(now)
	if l.checkpoints.begin(now, l.interval) {
		l.catchUp.skip(skipAfter)
		l.lookForBucket(now)
		l.write(now)
	}
	if now.Sub(l.sweptAt) >= forgetAfter {
		l.sweptAt = now
		l.subs.forget(now)
	}
	l.reporter.report(now)
}
