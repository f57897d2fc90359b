package delivery

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Fence is the highest term of a store's leaders that its proxies heard of: in cluster events, in records,
// in events that were sent to them. A lower one is refused. It only rises, but for Reset. It is safe for
// concurrent use.
type Fence struct {
	store   string
	log     *slog.Logger
	highest atomic.Uint64

	mu        sync.Mutex
	void      uint64 // records of terms up to here were written before a reset,
	voidUntil time.Time

	jumped, ignored, refused rate.Sometimes
}

const (
	// jump is how much higher than the last a term is that is warned of: leaders follow one by one. Terms
	// of subproxy's own emitters are revisions of a bucket, and jump.
	jump = 1000
	// voidFor is how long after a reset a record may still have the term of before: one of another instance
	// that is reset later, or of a write that was under way. By then all are written again.
	voidFor = time.Minute
	// warnEvery is how often each kind of warning is logged at the most.
	warnEvery = time.Minute
)

// NewFence makes the fence of a store of whose leaders nothing was heard.
func NewFence(store string, log *slog.Logger) *Fence {
	f := &Fence{store: store, log: log.With("store", store)}
	f.jumped.Interval, f.ignored.Interval, f.refused.Interval = warnEvery, warnEvery, warnEvery
	return f
}

// Term is the highest term; 0: none was heard of.
func (f *Fence) Term() uint64 { return f.highest.Load() }

// Raise makes the term at least that.
func (f *Fence) Raise(to uint64) {
	for {
		known := f.highest.Load()
		if to <= known || f.highest.CompareAndSwap(known, to) {
			return
		}
	}
}

// Learn adopts the term of a record, so that a restarted instance goes on refusing older ones.
func (f *Fence) Learn(term uint64, now time.Time) {
	f.mu.Lock()
	void := term <= f.void && now.Before(f.voidUntil)
	f.mu.Unlock()
	if !void {
		f.Raise(term)
	}
}

// Reset begins the count of terms again, and returns the term that was the highest.
func (f *Fence) Reset(to uint64, now time.Time) (before uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before = f.highest.Swap(to)
	if before > to {
		f.void, f.voidUntil = max(f.void, before), now.Add(voidFor)
	}
	return before
}

const wayBack = "if that term was a mistake: subproxy reset-term "

// WarnOfJump warns of a term far above the one known, which may be somebody's mistake.
func (f *Fence) WarnOfJump(known, term uint64) {
	if known == 0 || term <= known+jump {
		return
	}
	f.jumped.Do(func() {
		f.log.Warn("the term of the store's leader jumped; leaders with a lower one are ignored from now on; "+wayBack+f.store,
			"known", known, "term", term)
	})
}

// WarnIgnored warns of a cluster event of a lower term.
func (f *Fence) WarnIgnored(term uint64) {
	f.ignored.Do(func() {
		f.log.Warn("a leader change is ignored: a later term is known; others within a minute are only counted; "+wayBack+f.store,
			"term", term, "known", f.Term())
	})
}

// warnRefused warns of an emitter of a lower term.
func (f *Fence) warnRefused(term, known uint64) {
	f.refused.Do(func() {
		f.log.Warn("an emitter is refused: a leader of a later term is known; others within a minute are only counted; "+wayBack+f.store,
			"term", term, "known", known)
	})
}
