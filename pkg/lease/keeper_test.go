package lease_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/internal/leasetest"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
)

func TestMain(m *testing.M) { leasetest.VerifyMain(m) }

const key = "note.a"

// note is a record that outranks every other: its owner writes it over whatever it finds.
type note struct{ Text string }

func decodeNote(e *kv.Entry) (n note, err error) {
	if e.Operation == kv.Put {
		err = json.Unmarshal(e.Data, &n)
	}
	return n, err
}

// keeping is a run that keeps a note.
type keeping struct {
	*leasetest.Run
	w        *leasetest.World
	keeper   lease.Keeper[note]
	mine     note
	outcomes []lease.Outcome
	failed   error // the last failure
}

func keep(w *leasetest.World, text string) *keeping {
	k := &keeping{
		w: w, mine: note{text}, keeper: lease.NewKeeper(key, lease.DefaultTTL, decodeNote, leasetest.Steady),
	}
	k.Run = w.Add(key, k.step)
	k.step(lease.Input{Kind: lease.TimerDue})
	return k
}

func (k *keeping) step(in lease.Input) {
	var fx lease.Effects
	k.outcomes = append(k.outcomes, k.keeper.Step(in, k.w.Now, &fx))
	if fx.Failed != nil {
		k.failed = fx.Failed
	}
	k.decide(&fx)
}

func (k *keeping) decide(fx *lease.Effects) {
	if k.keeper.Ready(k.w.Now, fx) {
		k.keeper.Keep(k.mine, k.stands(), k.w.Now, fx)
	}
	k.w.Follow(k.Run, fx, false)
}

// change has the note say something else.
func (k *keeping) change(text string) {
	var fx lease.Effects
	k.mine.Text = text
	k.keeper.Change()
	k.decide(&fx)
}

func (k *keeping) stands() bool { return k.keeper.State == lease.Present && k.keeper.Record == k.mine }

func (k *keeping) last() lease.Outcome { return k.outcomes[len(k.outcomes)-1] }

func TestWhateverHappensTheRecordIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := leasetest.NewWorld(t, 1<<20)
		w.Account = func(write *kv.Write, over kv.Entry, _ uint64) {
			if write.Revision != over.Revision || write.TTL != lease.BucketTTL(lease.DefaultTTL) {
				t.Fatalf("%+v is written over %+v", write, over)
			}
		}
		k := keep(w, "first")
		actions := w.Actions([]string{key})
		actions["change"] = func(t *rapid.T) {
			if !k.Paused {
				k.change(rapid.SampledFrom([]string{"first", "second", "third"}).Draw(t, "text"))
			}
		}
		t.Repeat(actions)
		w.Recover()
		w.Calm(lease.DefaultTTL)
		there, renewed := w.Entries[key], w.Written[key]
		n, err := decodeNote(&there)
		if err != nil || there.Operation != kv.Put || n != k.mine || !k.stands() || k.keeper.Revision != there.Revision {
			t.Fatalf("the bucket has %+v, and the keeper %+v at %d, of %+v", n, k.keeper.Record, k.keeper.Revision, k.mine)
		}
		w.Calm(lease.DefaultTTL)
		if pace := w.Written[key].Sub(renewed); pace <= 0 || w.Now.Sub(w.Written[key]) > lease.DefaultTTL/lease.Renewals {
			t.Fatalf("not renewed: written at %v, and it is %v", w.Written[key], w.Now)
		}
	})
}

// written has a keeper whose record is in the bucket, and whose renewal is on its way.
func written(t *testing.T) (*leasetest.World, *keeping) {
	t.Helper()
	w := leasetest.NewWorld(t, 0)
	k := keep(w, "x")
	w.Calm(lease.DefaultTTL / 2)
	w.Now = k.Next
	w.Wake(k.Run)
	if k.Request == nil || k.Request.Write == nil {
		t.Fatal("no renewal is on its way")
	}
	return w, k
}

func TestWriteThatSomethingNewerFollowedIsOvertaken(t *testing.T) {
	w, k := written(t)
	w.Serve(k.Run)
	w.Set(kv.Entry{Key: key, Operation: kv.Deleted})
	for w.Feed(k.Run) {
	}
	if w.Finish(k.Run, false); k.last() != lease.Overtaken {
		t.Errorf("outcome %d", k.last())
	}
	if w.Calm(0); w.Entries[key].Operation != kv.Put {
		t.Error("it is not written again")
	}
}

func TestBucketThatAnswersInTwoWaysIsNotAskedWithoutPause(t *testing.T) {
	w, k := written(t)
	refuse := func() {
		k.Request.Answered = w.Now
		k.Request.Answer = lease.Input{Kind: lease.Answered, Err: kv.ErrConflict}
		w.Finish(k.Run, false)
	}
	if refuse(); k.last() != lease.Refused || k.Request == nil || k.Request.Write != nil {
		t.Fatalf("after a conflict the key is read: outcome %d, request %+v", k.last(), k.Request)
	}
	w.Now = w.Now.Add(time.Millisecond)
	w.Serve(k.Run)
	w.Finish(k.Run, false) // what it knows
	if refuse(); k.Request != nil || !k.Next.After(w.Now) {
		t.Errorf("request %+v, next at %v", k.Request, k.Next)
	}
}

func TestFailureTellsThatTheBucketIsGoneAndIsFollowedByAPause(t *testing.T) {
	for err, gone := range map[error]bool{kv.ErrNoStream: true, kv.ErrNoAck: false} {
		w, k := written(t)
		var fx lease.Effects
		got := k.keeper.Step(lease.Input{Kind: lease.Answered, Err: err}, w.Now, &fx)
		if got != lease.Failed || fx.Ensure != gone || !errors.Is(fx.Failed, err) {
			t.Errorf("%v: outcome %d, %+v", err, got, fx)
		}
		if k.keeper.Ready(w.Now, &fx) || fx.Read != "" || !fx.Next.After(w.Now) {
			t.Errorf("%v: there is no pause: %+v", err, fx)
		}
	}
}

func TestAnswerIsComparedWithWhatWasHeard(t *testing.T) {
	sent := time.Date(2026, 11, 23, 7, 0, 0, 0, time.UTC)
	before, after := sent.Add(-time.Second), sent.Add(time.Second)
	at := func(state lease.KeyState, heard time.Time) lease.Observation {
		return lease.Observation{State: state, Revision: 7, Heard: heard}
	}
	for name, c := range map[string]struct {
		seen     lease.Observation
		found    bool
		revision uint64
		want     lease.Comparison
	}{
		"still there":                      {at(lease.Present, before), true, 7, lease.Same},
		"higher":                           {at(lease.Present, before), true, 8, lease.Newer},
		"lower, nothing heard since":       {at(lease.Present, before), true, 3, lease.Newer},
		"nothing there":                    {at(lease.Present, before), false, 0, lease.Missing},
		"heard since":                      {at(lease.Present, after), true, 7, lease.Stale},
		"heard since, lower":               {at(lease.Present, after), true, 6, lease.Stale},
		"heard since, and higher":          {at(lease.Present, after), true, 8, lease.Newer},
		"heard since, and nothing there":   {at(lease.Present, after), false, 0, lease.Stale},
		"not known":                        {at(lease.Unknown, after), true, 7, lease.Newer},
		"not known, and there was nothing": {at(lease.Unknown, after), false, 0, lease.Missing},
	} {
		if got := c.seen.Compare(sent, c.found, c.revision); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestRecordThatVanishedIsWrittenAgainBeforeItsRenewal(t *testing.T) {
	for name, vanish := range map[string]func(*leasetest.World){
		"purged":   func(w *leasetest.World) { w.Purge() },
		"replaced": func(w *leasetest.World) { w.Lose() },
		"deleted":  func(w *leasetest.World) { w.Set(kv.Entry{Key: key, Operation: kv.Deleted}) },
	} {
		w := leasetest.NewWorld(t, 1<<20)
		k := keep(w, "x")
		w.Calm(lease.DefaultTTL/2 + 100*time.Millisecond) // between two renewals
		if !k.Next.After(w.Now) {
			t.Fatal("a renewal is due")
		}
		vanish(w)
		if w.Calm(0); w.Entries[key].Operation != kv.Put || w.Entries[key].Revision == 0 || !k.stands() {
			t.Errorf("%s: %+v is there", name, w.Entries[key])
		}
	}
}

func TestEntryThatIsNotNewerIsIgnored(t *testing.T) {
	w := leasetest.NewWorld(t, 1<<20)
	k := keep(w, "x")
	w.Calm(0)
	var fx lease.Effects
	marker := kv.Entry{Key: key, Operation: kv.Deleted, Revision: k.keeper.Revision}
	if got := k.keeper.Step(lease.Input{Kind: lease.EntryHeard, Entry: marker}, w.Now, &fx); got != lease.Unchanged || !k.stands() {
		t.Errorf("outcome %d, the keeper has %+v", got, k.keeper.Observation)
	}
}
