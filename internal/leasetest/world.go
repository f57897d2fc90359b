package leasetest

import (
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
)

// Steady is a jitter that never varies anything.
func Steady() float64 { return 0 }

// World is a cluster bucket in virtual time, and the runs whose rules keep records in it, or follow those
// of others. It answers their requests as late, and shows them its feed as slowly, as a test wants; answers
// may be lost, writes may come late, and the bucket may be away, be emptied, or be replaced.
type World struct {
	T    interface{ Fatalf(string, ...any) }
	Now  time.Time
	Up   bool          // JetStream answers
	Trip time.Duration // that an answer takes where everything works
	TTL  time.Duration // of records that are not renewed

	Revision uint64               // of the bucket's last entry
	Entries  map[string]kv.Entry  // by key
	Written  map[string]time.Time // when, by key
	Losses   uint64               // times that the bucket was lost or purged
	Answered time.Time            // when the answer was given that arrived last
	Terms    bool                 // markers of deletions say the term

	// Account, which may be nil, is called with each record that is written by a conditional write, before
	// it is there: over is what it replaces.
	Account func(w *kv.Write, over kv.Entry, revision uint64)
	// Settled, which may be nil, is called for each run in a calm once all is answered and shown to it; it
	// reports whether it stepped the rules.
	Settled func(r *Run) bool

	Runs []*Run

	log  []lease.Input // what the feed shows
	late []*kv.Write   // whose answers were lost, and that may still come
}

// Run is one that keeps a key or follows keys.
type Run struct {
	Step    func(lease.Input) // steps the rules, and passes what they want done to Follow
	Key     string            // the only one that the feed shows to it; empty: every key
	Request *Request          // under way
	Next    time.Time         // when it is to be stepped again
	Paused  bool              // it does nothing, as if stopped by SIGSTOP
	Over    bool              // it ended, or was killed

	fed int // how much of the feed it was shown
}

// Request is one under way. It is answered before its answer arrives.
type Request struct {
	Key      string
	Write    *kv.Write // nil: a read
	Answered time.Time // zero: not yet
	Answer   lease.Input
}

// NewWorld makes a bucket that is empty, with revisions above first.
func NewWorld(t interface{ Fatalf(string, ...any) }, first uint64) *World {
	return &World{
		T: t, Now: time.Date(2026, 11, 23, 7, 0, 0, 0, time.UTC), Up: true,
		TTL:      lease.BucketTTL(lease.DefaultTTL),
		Revision: first, Entries: map[string]kv.Entry{}, Written: map[string]time.Time{},
	}
}

// Add adds a run, to which the feed shows the key, or all keys, from now on. It is not stepped yet.
func (w *World) Add(key string, step func(lease.Input)) *Run {
	r := &Run{Key: key, Step: step, fed: len(w.log)}
	w.Runs = append(w.Runs, r)
	return r
}

// ShowAll has the feed show a run what it showed before the run was added.
func (r *Run) ShowAll() { r.fed = 0 }

// Follow does what a run's rules want done, and checks that it is one thing at a time.
func (w *World) Follow(r *Run, fx *lease.Effects, done bool) {
	r.Next, r.Over = fx.Next, r.Over || done
	if fx.Read == "" && fx.Write == nil {
		if done && r.Request != nil {
			w.T.Fatalf("done while a request is under way")
		}
		return
	}
	if r.Request != nil || fx.Read != "" && fx.Write != nil || done {
		w.T.Fatalf("two requests at once, or one after the end")
	}
	r.Request = &Request{Key: fx.Read, Write: fx.Write}
	if fx.Write != nil {
		r.Request.Key = fx.Write.Key
	}
}

// put is the server's side of a write.
func (w *World) put(write *kv.Write) (uint64, error) {
	over := w.Entries[write.Key]
	if write.Revision != over.Revision {
		return 0, kv.ErrConflict
	}
	e := kv.Entry{Key: write.Key, Data: write.Data}
	if write.Data == nil {
		e.Operation = kv.Deleted
		if w.Terms {
			e.Term = write.Term
		}
	} else if w.Account != nil {
		w.Account(write, over, w.Revision+1)
	}
	return w.Set(e), nil
}

// Set puts an entry there, whatever was there, and says its revision.
func (w *World) Set(e kv.Entry) uint64 {
	w.Revision++
	e.Revision = w.Revision
	w.Entries[e.Key], w.Written[e.Key] = e, w.Now
	w.log = append(w.log, lease.Input{Kind: lease.EntryHeard, Entry: e})
	return e.Revision
}

// Serve lets the server do what a run asked for.
func (w *World) Serve(r *Run) {
	q := r.Request
	if q == nil || !q.Answered.IsZero() || !w.Up {
		return
	}
	q.Answered, q.Answer = w.Now, lease.Input{Kind: lease.Answered}
	if q.Write != nil {
		q.Answer.Revision, q.Answer.Err = w.put(q.Write)
		return
	}
	q.Answer.Entry, q.Answer.Found = w.Entries[q.Key]
}

// Finish gives a run its answer; a lost one is a time-out, and its write may still come.
func (w *World) Finish(r *Run, lost bool) {
	q := r.Request
	if q == nil || q.Answered.IsZero() && !lost {
		return
	}
	r.Request, w.Answered = nil, q.Answered
	if lost {
		if q.Answered.IsZero() && q.Write != nil {
			w.late = append(w.late, q.Write)
		}
		q.Answer = lease.Input{Kind: lease.Answered, Err: kv.ErrNoAck}
	}
	r.Step(q.Answer)
}

// WriteLate lets the first of the writes come whose answers were lost, and reports whether there is one.
func (w *World) WriteLate() bool {
	if len(w.late) == 0 || !w.Up {
		return false
	}
	write := w.late[0]
	w.late = w.late[1:]
	_, _ = w.put(write) // nobody waits for the answer
	return true
}

// ForgetLate has no write come late any more.
func (w *World) ForgetLate() { w.late = nil }

// Writing reports whether a write is on its way to the server, or may still come.
func (w *World) Writing() bool {
	for _, r := range w.Runs {
		if r.Request != nil && r.Request.Write != nil && r.Request.Answered.IsZero() {
			return true
		}
	}
	return len(w.late) > 0
}

// Feed shows a run what is next on its feed, and reports whether there was anything.
func (w *World) Feed(r *Run) bool {
	if r.fed >= len(w.log) {
		return false
	}
	in := w.log[r.fed]
	r.fed++
	if in.Kind != lease.EntryHeard || r.Key == "" || in.Entry.Key == r.Key {
		r.Step(in)
	}
	return true
}

// Wake steps a run whose time has come.
func (w *World) Wake(r *Run) {
	if !r.Next.IsZero() && !w.Now.Before(r.Next) {
		r.Step(lease.Input{Kind: lease.TimerDue})
	}
}

// Expire does what the bucket does by itself.
func (w *World) Expire() {
	if !w.Up {
		return
	}
	for key, e := range w.Entries {
		if e.Operation == kv.Put && w.Now.Sub(w.Written[key]) >= w.TTL {
			w.Set(kv.Entry{Key: key, Operation: kv.Expired})
		}
	}
}

// Purge empties the bucket without a word.
func (w *World) Purge() {
	w.Losses++
	clear(w.Entries)
	w.log = append(w.log, lease.Input{Kind: lease.KeysTrimmed, Revision: w.Revision + 1})
}

// Replace empties the bucket, and has its revisions go on above another one. What is on its way to it
// fails.
func (w *World) Replace(first uint64) {
	w.Losses++
	w.Revision = first
	clear(w.Entries)
	w.late = nil
	w.log = append(w.log, lease.Input{Kind: lease.BucketReplaced})
	for _, r := range w.Runs {
		if q := r.Request; q != nil && q.Answered.IsZero() {
			q.Answered, q.Answer = w.Now, lease.Input{Kind: lease.Answered, Err: kv.ErrNoStream}
		}
	}
}

// Lose replaces the bucket by one whose revisions are lower, and none of which was there before: a revision
// of the old bucket that is by chance that of a record in the new one is beyond any rule.
func (w *World) Lose() { w.Replace(1<<20 - (w.Losses+1)*1000) }

// active reports whether a run does anything.
func (r *Run) active() bool { return !r.Paused && !r.Over }

// Calm lets d pass in which everything works at once, but for the runs that are paused.
func (w *World) Calm(d time.Duration) {
	end := w.Now.Add(d)
	for {
		w.settle()
		next := end
		for _, r := range w.Runs {
			if r.active() && !r.Next.IsZero() && r.Next.Before(next) {
				next = r.Next
			}
		}
		if w.Now = lease.Later(w.Now, next); !w.Now.Before(end) {
			w.settle()
			return
		}
		for _, r := range w.Runs {
			if r.active() {
				w.Wake(r)
			}
		}
	}
}

// settle answers and shows all there is.
func (w *World) settle() {
	for busy := true; busy; {
		busy = false
		w.Expire()
		for _, r := range w.Runs {
			if r.active() && w.settleRun(r) {
				busy = true
			}
		}
	}
}

func (w *World) settleRun(r *Run) (busy bool) {
	if r.Request != nil {
		busy = w.Up
		w.Serve(r)
		w.Now = w.Now.Add(w.Trip)
		w.Finish(r, !w.Up)
	}
	for !r.Over && w.Feed(r) {
		busy = true
	}
	if w.Settled != nil && w.Settled(r) {
		busy = true
	}
	return busy
}

// Awake draws one of the runs that do something.
func (w *World) Awake(t *rapid.T) *Run {
	r := w.Any(t)
	if !r.active() {
		t.Skip("it does nothing")
	}
	return r
}

// Any draws one of the runs.
func (w *World) Any(t *rapid.T) *Run {
	if len(w.Runs) == 0 {
		t.Skip("there is none")
	}
	return w.Runs[rapid.IntRange(0, len(w.Runs)-1).Draw(t, "run")]
}

// Actions are what can happen in any world, for rapid to choose from: to its runs, and to its keys.
func (w *World) Actions(keys []string) map[string]func(*rapid.T) {
	up := func(t *rapid.T) {
		if !w.Up {
			t.Skip("JetStream is away")
		}
	}
	key := func(t *rapid.T) string { up(t); return rapid.SampledFrom(keys).Draw(t, "key") }
	return map[string]func(*rapid.T){
		"time": func(t *rapid.T) {
			w.Now = w.Now.Add(time.Duration(rapid.IntRange(1, 1500).Draw(t, "ms")) * time.Millisecond)
			w.Expire()
		},
		"calm": func(t *rapid.T) {
			w.Calm(time.Duration(rapid.IntRange(0, 5000).Draw(t, "calm ms")) * time.Millisecond)
		},
		"wake":   func(t *rapid.T) { w.Wake(w.Awake(t)) },
		"serve":  func(t *rapid.T) { w.Serve(w.Any(t)) }, // a paused or killed run's request too
		"finish": func(t *rapid.T) { w.Finish(w.Awake(t), false) },
		"lose":   func(t *rapid.T) { w.Finish(w.Awake(t), true) },
		"feed":   func(t *rapid.T) { w.Feed(w.Awake(t)) },
		"pause":  func(t *rapid.T) { r := w.Any(t); r.Paused = !r.Paused },
		"late write": func(t *rapid.T) {
			if !w.WriteLate() {
				t.Skip("none")
			}
		},
		"jetstream": func(*rapid.T) { w.Up = !w.Up },
		"delete by hand": func(t *rapid.T) {
			key := key(t)
			if _, ok := w.Entries[key]; !ok {
				t.Skip("nothing there")
			}
			w.Set(kv.Entry{Key: key, Operation: kv.Deleted})
		},
		"garbage by hand": func(t *rapid.T) { w.Set(kv.Entry{Key: key(t), Data: []byte(`{"nonsense":`)}) },
		"purge":           func(t *rapid.T) { up(t); w.Purge() },
		"bucket lost":     func(*rapid.T) { w.Lose() },
	}
}

// Recover ends every trouble: JetStream answers, no write comes late any more, and every run goes on.
func (w *World) Recover() {
	w.Up, w.late = true, nil
	for _, r := range w.Runs {
		r.Paused = false
	}
}
