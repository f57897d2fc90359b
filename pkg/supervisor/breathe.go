package supervisor

import (
	"runtime"
	"time"
)

// breath is how many proxies a walk steps between two looks at what was asked. A step takes a few microseconds, so that what
// is asked in the middle of a walk over 100,000 of them is answered within a millisecond, and not at its end.
const breath = 64

// breathe is called by every walk over proxies, with how many it has stepped. It answers what only looks, and begins with
// attempts: NATS works on the first batches of a round while the loop is still admitting the others. Whoever else waits for a processor
// has it before the scheduler would take it from the loop, which is after 10 ms: an operator's request needs one several times.
func (l *loop) breathe(stepped int) {
	if stepped%breath != breath-1 {
		return
	}
	runtime.Gosched()
	l.runUrgent()
	if len(l.dispatcher.ready) >= batchSize || len(l.dispatcher.unheld) >= takeoverBatch {
		l.dispatcher.launch(l.dispatcher.ctx)
	}
}

// maxDepth is how deep answers nest: what tells of one proxy is answered in the middle of what tells of all.
const maxDepth = 2

// runUrgent does the tasks that need not wait for anything but the Apply calls before them, and hands over the
// attempts that they cause.
func (l *loop) runUrgent() {
	if l.depth == maxDepth {
		return
	}
	asked := l.inbox.dueUrgent(l.applied)
	if len(asked) == 0 {
		return
	}
	l.depth++
	defer func() { l.depth-- }()
	now := time.Now()
	for _, r := range asked {
		r.do(l, now)
	}
	l.dispatcher.launchPriority(l.dispatcher.ctx)
}
