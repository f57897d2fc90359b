package membership

import (
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// long outlasts every TTL and grace there is.
const long = 10 * (testTTL + 3*testGrace)

func TestWhateverHappensViewsOfTheMembersConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, 2)
		lossy := rapid.Bool().Draw(t, "lossy")
		some := func(t *rapid.T) *run {
			if len(w.runs) == 0 {
				t.Skip("none")
			}
			return w.runs[rapid.IntRange(0, len(w.runs)-1).Draw(t, "run of an instance")]
		}
		awake := func(t *rapid.T) *run {
			r := some(t)
			if r.Paused || r.Over {
				t.Skip("it does nothing")
			}
			return r
		}
		names := []string{"a", "b", "c d"}
		var keys []string
		for _, name := range names {
			keys = append(keys, MemberKey(name))
		}
		actions := w.Actions(keys)
		actions["begin"] = func(t *rapid.T) {
			if len(w.runs) > 12 {
				t.Skip("enough")
			}
			w.begin(rapid.SampledFrom(names).Draw(t, "name"))
		}
		actions["kill"] = func(t *rapid.T) { some(t).kill() }
		actions["close"] = func(t *rapid.T) { w.stop(awake(t)) }
		actions["drain"] = func(t *rapid.T) { w.drain(awake(t), rapid.Bool().Draw(t, "draining")) }
		if !lossy {
			delete(actions, "purge")
			delete(actions, "bucket lost")
		}
		t.Repeat(actions)

		w.Recover()
		w.Calm(long)
		want := w.holders()
		for i, o := range w.observers {
			if got := alive(o.rules.view()); !maps.Equal(got, want) {
				t.Fatalf("observer %d has %v, and there are %v", i, got, want)
			}
			if got := eligible(o.told); !maps.Equal(got, want) {
				t.Fatalf("observer %d was told of %v, and there are %v", i, got, want)
			}
		}
		for _, r := range w.runs {
			e, ok := w.Entries[r.key()]
			if !r.Over && (!ok || !r.rules.ours() || e.Revision != r.rules.lease.Revision || r.rules.lease.Record != r.rules.mine) {
				t.Fatalf("%s does not know what the bucket has", r.rules.mine.ID)
			}
		}
	})
}
