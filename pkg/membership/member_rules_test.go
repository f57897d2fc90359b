package membership

import (
	"maps"
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/registration"
)

// trip is a round trip in a world: an answer takes a moment, and the moments add up.
const trip = 10 * time.Millisecond

// settled makes a world in which the names have one run each that everybody counts.
func settled(t *testing.T, names ...string) (*world, []*run) {
	w := newWorld(t, 2)
	var runs []*run
	for _, name := range names {
		runs = append(runs, w.begin(name))
	}
	w.Calm(settle + trip)
	w.wantCounted(names...)
	return w, runs
}

func (w *world) wantCounted(names ...string) {
	want := map[string]bool{}
	for _, name := range names {
		want[name] = true
	}
	for i, o := range w.observers {
		got := map[string]bool{}
		for name := range eligible(o.told) {
			got[name] = true
		}
		if !maps.Equal(got, want) {
			w.T.Fatalf("observer %d was told of %v, want %v", i, got, names)
		}
	}
}

// tells counts how often each observer is told something while f runs.
func (w *world) tells(f func()) (most int) {
	before := make([]int, len(w.observers))
	for i, o := range w.observers {
		before[i] = o.tells
	}
	f()
	for i, o := range w.observers {
		most = max(most, o.tells-before[i])
	}
	return most
}

func TestMembersThatCouldNotRenewAreNotDeclaredGone(t *testing.T) {
	for name, away := range map[string]time.Duration{"a moment": time.Second, "past the TTL": testTTL + time.Second, "past everything": long} {
		t.Run(name, func(t *testing.T) {
			w, _ := settled(t, "a", "b", "c")
			told := w.tells(func() {
				w.Up = false
				w.Calm(away)
				w.Up = true
				w.Calm(long)
			})
			if told > 0 {
				t.Errorf("observers were told %d times of a change", told)
			}
			w.wantCounted("a", "b", "c")
		})
	}
}

func TestMemberWhoseKeyExpiredWritesItAgainAtOnce(t *testing.T) {
	w, runs := settled(t, "a", "b")
	told := w.tells(func() {
		e := w.Entries[runs[0].key()]
		w.Set(kv.Entry{Key: e.Key, Operation: kv.Expired})
		w.Calm(trip)
	})
	if e := w.Entries[runs[0].key()]; e.Operation != kv.Put || told > 0 {
		t.Errorf("%v, told %d times", e.Operation, told)
	}
}

func TestMemberDeletedByHandWritesItAgainAndKeepsItsPlace(t *testing.T) {
	w, runs := settled(t, "a", "b")
	w.Set(kv.Entry{Key: runs[0].key(), Operation: kv.Deleted})
	w.Calm(trip)
	w.wantCounted("a", "b") // without the settling time
	if got := runs[0].rules.lease.Record; got.Incarnation != 1 {
		t.Errorf("incarnation %d", got.Incarnation)
	}
}

func TestKilledMemberIsGoneAfterTTLAndGrace(t *testing.T) {
	w, runs := settled(t, "a", "b")
	w.Calm(testTTL) // well into its renewals
	last := w.Written[runs[0].key()]
	runs[0].kill()
	w.Calm(last.Add(testTTL + testGrace - trip).Sub(w.Now))
	w.wantCounted("a", "b")
	w.Calm(3 * trip)
	w.wantCounted("b")
}

func TestExpiredMemberThatIsDeadIsGoneAfterTheGrace(t *testing.T) {
	w, runs := settled(t, "a", "b")
	runs[0].kill()
	w.Set(kv.Entry{Key: runs[0].key(), Operation: kv.Expired})
	w.Calm(testGrace - trip)
	w.wantCounted("a", "b")
	w.Calm(3 * trip)
	w.wantCounted("b")
}

func TestGraceBeginsAgainWhereJetStreamIsAwayAtItsEnd(t *testing.T) {
	w, runs := settled(t, "a", "b")
	runs[0].Paused = true // it lives, and is cut off for a while
	w.Set(kv.Entry{Key: runs[0].key(), Operation: kv.Expired})
	w.Calm(testGrace / 2)
	w.Up = false
	w.Calm(testGrace)
	w.Up = true
	w.Calm(testGrace - 300*time.Millisecond)
	w.wantCounted("a", "b")
	runs[0].Paused = false
	w.Calm(long)
	w.wantCounted("a", "b")
}

func TestClosedMemberIsGoneAtOnce(t *testing.T) {
	w, runs := settled(t, "a", "b")
	w.stop(runs[0])
	w.Calm(trip)
	w.wantCounted("b")
	if !runs[0].done() {
		t.Error("not done")
	}
}

func TestCloseDeletesWhatALateWriteLeft(t *testing.T) {
	w := newWorld(t, 1)
	r := w.begin("a")
	w.Serve(r.Run) // the read
	w.Finish(r.Run, false)
	w.Serve(r.Run)        // the record is written
	w.Finish(r.Run, true) // and its acknowledgement is lost
	w.stop(r)
	w.Calm(trip)
	if e := w.Entries[r.key()]; e.Operation != kv.Deleted || !r.done() {
		t.Errorf("%v, done %t", e.Operation, r.done())
	}
}

func TestRestartedMemberIsTheSameAndItsLastRunDead(t *testing.T) {
	w, runs := settled(t, "a", "b")
	runs[0].kill()
	again := w.begin("a")
	w.Calm(trip)
	for _, o := range w.observers {
		v := o.told
		if old := runs[0].rules.mine; v.Alive(old.Owner()) {
			t.Error("the last run is alive")
		}
		if p, _ := v.Peer("a"); !p.Eligible || p.ID != again.rules.mine.ID || !v.Alive(p.Owner()) || p.Incarnation != 2 {
			t.Errorf("%+v", p)
		}
	}
}

func TestOfTwoRunsThatLiveTheLaterStays(t *testing.T) {
	w, runs := settled(t, "a")
	again := w.begin("a")
	w.Calm(long)
	if by := runs[0].rules.by; by == nil || by.ID != again.rules.mine.ID || !runs[0].done() || again.done() {
		t.Errorf("superseded by %+v, the later is done: %t", by, again.done())
	}
	w.wantCounted("a")
}

func TestRunThatWakesUpLateDoesNotTakeTheNameBack(t *testing.T) {
	for name, then := range map[string]func(*world, *run){
		"its successor lives":     func(*world, *run) {},
		"its successor is killed": func(_ *world, r *run) { r.kill() },
	} {
		t.Run(name, func(t *testing.T) {
			w, runs := settled(t, "a")
			runs[0].Paused = true
			w.Calm(long)
			w.wantCounted()
			again := w.begin("a")
			w.Calm(long)
			then(w, again)
			runs[0].Paused = false
			w.Calm(long)
			if runs[0].rules.by == nil {
				t.Error("it was not superseded")
			}
		})
	}
}

func TestMembersThatComeTogetherAreToldOfOnce(t *testing.T) {
	w, _ := settled(t, "a")
	told := w.tells(func() {
		w.begin("b")
		w.Calm(settle / 2)
		w.begin("c")
		w.wantCounted("a")
		w.Calm(settle/2 + trip)
		w.wantCounted("a", "b", "c")
		w.Calm(settle)
	})
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}

func TestMemberThatLeavesLetsOthersCountAtOnce(t *testing.T) {
	w, runs := settled(t, "a", "b")
	w.begin("c")
	w.Calm(trip)
	w.wantCounted("a", "b")
	w.stop(runs[0])
	w.Calm(trip)
	w.wantCounted("b", "c")
}

func TestWhoeverIsThereAtTheStartCounts(t *testing.T) {
	w, _ := settled(t, "a", "b")
	o := w.addObserver()
	for w.Feed(o.Run) {
		if o.tells > 0 || !o.rules.view().Alive(registration.Owner{Name: "x", ID: "y"}) {
			t.Fatal("it says something before it knows all")
		}
	}
	w.observe(o, lease.Input{Kind: lease.FeedLevel})
	w.wantCounted("a", "b")
	if o.told.Alive(registration.Owner{Name: "x", ID: "y"}) {
		t.Error("who has no session is alive")
	}
}

func TestDrainingIsToldAtOnce(t *testing.T) {
	w, runs := settled(t, "a", "b")
	w.drain(runs[0], true)
	w.Calm(trip)
	for _, o := range w.observers {
		if p, _ := o.told.Peer("a"); !p.Draining || !p.Eligible {
			t.Errorf("%+v", p)
		}
	}
}

func TestSessionsComeBackWhereTheBucketWasLost(t *testing.T) {
	for name, lose := range map[string]func(*world){"lost": func(w *world) { w.Lose() }, "purged": func(w *world) { w.Purge() }} {
		t.Run(name, func(t *testing.T) {
			w, _ := settled(t, "a", "b")
			told := w.tells(func() {
				lose(w)
				w.Calm(long)
			})
			if told > 0 {
				t.Errorf("told %d times", told)
			}
			w.wantCounted("a", "b")
		})
	}
}
