package membership

import (
	"maps"
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/registration"
)

// trip is a round trip in a town: an answer takes a moment, and the moments add up.
const trip = 10 * time.Millisecond

// settled makes a town in which the names have one run each that everybody counts.
func settled(t *testing.T, names ...string) (*town, []*tenant) {
	w := newTown(t, 2)
	var runs []*tenant
	for _, name := range names {
		runs = append(runs, w.begin(name))
	}
	w.calm(testSettle + trip)
	w.wantCounted(names...)
	return w, runs
}

func (w *town) wantCounted(names ...string) {
	want := map[string]bool{}
	for _, name := range names {
		want[name] = true
	}
	for i, o := range w.observers {
		got := map[string]bool{}
		for name := range counted(o.told) {
			got[name] = true
		}
		if !maps.Equal(got, want) {
			w.rt.Fatalf("observer %d was told of %v, want %v", i, got, names)
		}
	}
}

// tells counts how often each observer is told something while f runs.
func (w *town) tells(f func()) (most int) {
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
	for name, away := range map[string]time.Duration{"a moment": time.Second, "past the TTL": lease.DefaultTTL + time.Second, "past everything": long} {
		t.Run(name, func(t *testing.T) {
			w, _ := settled(t, "a", "b", "c")
			told := w.tells(func() {
				w.up = false
				w.calm(away)
				w.up = true
				w.calm(long)
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
		e := w.entries[runs[0].rules.key]
		w.set(kv.Entry{Key: e.Key, Operation: kv.Expired})
		w.calm(trip)
	})
	if e := w.entries[runs[0].rules.key]; e.Operation != kv.Put || told > 0 {
		t.Errorf("%v, told %d times", e.Operation, told)
	}
}

func TestMemberDeletedByHandWritesItAgainAndKeepsItsPlace(t *testing.T) {
	w, runs := settled(t, "a", "b")
	w.set(kv.Entry{Key: runs[0].rules.key, Operation: kv.Deleted})
	w.calm(trip)
	w.wantCounted("a", "b") // without the settling time
	if got := runs[0].rules.view.record; got.Incarnation != 1 {
		t.Errorf("incarnation %d", got.Incarnation)
	}
}

func TestKilledMemberIsGoneAfterTTLAndGrace(t *testing.T) {
	w, runs := settled(t, "a", "b")
	w.calm(lease.DefaultTTL) // well into its renewals
	last := w.written[runs[0].rules.key]
	runs[0].killed = true
	w.calm(last.Add(lease.DefaultTTL + lease.DefaultGrace - trip).Sub(w.now))
	w.wantCounted("a", "b")
	w.calm(3 * trip)
	w.wantCounted("b")
}

func TestExpiredMemberThatIsDeadIsGoneAfterTheGrace(t *testing.T) {
	w, runs := settled(t, "a", "b")
	runs[0].killed = true
	w.set(kv.Entry{Key: runs[0].rules.key, Operation: kv.Expired})
	w.calm(lease.DefaultGrace - trip)
	w.wantCounted("a", "b")
	w.calm(3 * trip)
	w.wantCounted("b")
}

func TestGraceBeginsAgainWhereJetStreamIsAwayAtItsEnd(t *testing.T) {
	w, runs := settled(t, "a", "b")
	runs[0].paused = true // it lives, and is cut off for a while
	w.set(kv.Entry{Key: runs[0].rules.key, Operation: kv.Expired})
	w.calm(lease.DefaultGrace / 2)
	w.up = false
	w.calm(lease.DefaultGrace)
	w.up = true
	w.calm(lease.DefaultGrace - 300*time.Millisecond)
	w.wantCounted("a", "b")
	runs[0].paused = false
	w.calm(long)
	w.wantCounted("a", "b")
}

func TestClosedMemberIsGoneAtOnce(t *testing.T) {
	w, runs := settled(t, "a", "b")
	w.follow(runs[0], runs[0].rules.stop(w.now))
	w.calm(trip)
	w.wantCounted("b")
	if !runs[0].done {
		t.Error("not done")
	}
}

func TestCloseDeletesWhatALateWriteLeft(t *testing.T) {
	w := newTown(t, 1)
	r := w.begin("a")
	w.serve(r.call) // the read
	w.finishRun(r, false)
	w.serve(r.call)      // the record is written
	w.finishRun(r, true) // and its acknowledgement is lost
	w.follow(r, r.rules.stop(w.now))
	w.calm(trip)
	if e := w.entries[r.rules.key]; e.Operation != kv.Deleted || !r.done {
		t.Errorf("%v, done %t", e.Operation, r.done)
	}
}

func TestRestartedMemberIsTheSameAndItsLastRunDead(t *testing.T) {
	w, runs := settled(t, "a", "b")
	runs[0].killed = true
	again := w.begin("a")
	w.calm(trip)
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
	w.calm(long)
	if by := runs[0].rules.by; by == nil || by.ID != again.rules.mine.ID || !runs[0].done || again.done {
		t.Errorf("superseded by %+v, the later is done: %t", by, again.done)
	}
	w.wantCounted("a")
}

func TestRunThatWakesUpLateDoesNotTakeTheNameBack(t *testing.T) {
	for name, then := range map[string]func(*town, *tenant){
		"its successor lives":     func(*town, *tenant) {},
		"its successor is killed": func(_ *town, r *tenant) { r.killed = true },
	} {
		t.Run(name, func(t *testing.T) {
			w, runs := settled(t, "a")
			runs[0].paused = true
			w.calm(long)
			w.wantCounted()
			again := w.begin("a")
			w.calm(long)
			then(w, again)
			runs[0].paused = false
			w.calm(long)
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
		w.calm(testSettle / 2)
		w.begin("c")
		w.wantCounted("a")
		w.calm(testSettle/2 + trip)
		w.wantCounted("a", "b", "c")
		w.calm(testSettle)
	})
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}

func TestMemberThatLeavesLetsOthersCountAtOnce(t *testing.T) {
	w, runs := settled(t, "a", "b")
	w.begin("c")
	w.calm(trip)
	w.wantCounted("a", "b")
	w.follow(runs[0], runs[0].rules.stop(w.now))
	w.calm(trip)
	w.wantCounted("b", "c")
}

func TestWhoeverIsThereAtTheStartCounts(t *testing.T) {
	w, _ := settled(t, "a", "b")
	o := &observer{rules: memberRules{grace: lease.DefaultGrace, settle: testSettle, rand: half, members: map[string]*memberState{}}, told: &View{}}
	w.observers = append(w.observers, o)
	for w.show(o) {
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
	w.follow(runs[0], runs[0].rules.edit(func(m *Member) { m.Draining = true }, w.now))
	w.calm(trip)
	for _, o := range w.observers {
		if p, _ := o.told.Peer("a"); !p.Draining || !p.Eligible {
			t.Errorf("%+v", p)
		}
	}
}

func TestSessionsComeBackWhereTheBucketWasLost(t *testing.T) {
	for name, lose := range map[string]func(*town){"lost": (*town).lose, "purged": (*town).purge} {
		t.Run(name, func(t *testing.T) {
			w, _ := settled(t, "a", "b")
			told := w.tells(func() {
				lose(w)
				w.calm(long)
			})
			if told > 0 {
				t.Errorf("told %d times", told)
			}
			w.wantCounted("a", "b")
		})
	}
}
