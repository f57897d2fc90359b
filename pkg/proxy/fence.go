package proxy

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// fence is the highest term of a store's leaders that its proxies heard of: in cluster events, in records, in events that were
// sent to them. A lower one is refused. It only rises, but for reset. It is safe for concurrent use.
type fence struct {
	highest atomic.Uint64

	mu        sync.Mutex
	void      uint64 // records of terms up to here were written before a reset,
	voidUntil time.Time

	jumped, ignored, refused rate.Sometimes
}

const (
	// jump is how much higher than the last a term is that is warned of: leaders follow one by one. Terms of subproxy's own
	// emitters are revisions of a bucket, and jump.
	jump = 1000
	// voidFor is how long after a reset a record may still have the term of before: one of another instance that is reset
	// later, or of a write that was under way. By then all are written again.
	voidFor = time.Minute
)

// warnEvery is how often each kind of warning is logged at the most.
const warnEvery = time.Minute

func (f *fence) term() uint64 { return f.highest.Load() }

// raise makes the term at least that.
func (f *fence) raise(to uint64) {
	for {
		known := f.highest.Load()
		if to <= known || f.highest.CompareAndSwap(known, to) {
			return
		}
	}
}

// learn takes over the term that a record carries, so that a restarted instance goes on refusing older ones.
func (f *fence) learn(term uint64, now time.Time) {
	f.mu.Lock()
	void := term <= f.void && now.Before(f.voidUntil)
	f.mu.Unlock()
	if !void {
		f.raise(term)
	}
}

// reset begins the count of terms again, and returns the term that was the highest.
func (f *fence) reset(to uint64, now time.Time) (before uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before = f.highest.Swap(to)
	if before > to {
		f.void, f.voidUntil = max(f.void, before), now.Add(voidFor)
	}
	return before
}

const wayBack = "if that term was a mistake: subproxy reset-term "

// warnJump is for a term far above the one known, which may be somebody's mistake.
func (f *fence) warnJump(log *slog.Logger, store string, known, term uint64) {
	f.jumped.Do(func() {
		log.Warn("the term of the store's leader jumped; leaders with a lower one are ignored from now on; "+wayBack+store, "known", known, "term", term)
	})
}

// warnIgnored is for a cluster event of a lower term.
func (f *fence) warnIgnored(log *slog.Logger, store string, term uint64) {
	f.ignored.Do(func() {
		log.Warn("a leader change is ignored: a later term is known; others within a minute are only counted; "+wayBack+store, "term", term, "known", f.term())
	})
}

// warnRefused is for an emitter of a lower term.
func (f *fence) warnRefused(log *slog.Logger, store string, term, known uint64) {
	f.refused.Do(func() {
		log.Warn("an emitter is refused: a leader of a later term is known; others within a minute are only counted; "+wayBack+store, "term", term, "known", known)
	})
}
