package membership

import (
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
)

// long outlasts every TTL and grace there is.
const long = 10 * (lease.DefaultTTL + lease.DefaultGrace + lease.Garbage)

func TestWhateverHappensViewsOfTheMembersConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newTown(t, 2)
		lossy := rapid.Bool().Draw(t, "lossy")
		some := func() *tenant {
			if len(w.runs) == 0 {
				t.Skip("none")
			}
			return w.runs[rapid.IntRange(0, len(w.runs)-1).Draw(t, "run")]
		}
		awake := func() *tenant {
			r := some()
			if r.paused || !r.live() {
				t.Skip("does nothing")
			}
			return r
		}
		observer := func() *observer {
			o := w.observers[rapid.IntRange(0, len(w.observers)-1).Draw(t, "observer")]
			if o.paused {
				t.Skip("paused")
			}
			return o
		}
		name := func() string { return rapid.SampledFrom([]string{"a", "b", "c d"}).Draw(t, "name") }
		actions := map[string]func(*rapid.T){
			"begin": func(*rapid.T) {
				if len(w.runs) > 12 {
					t.Skip("enough")
				}
				w.begin(name())
			},
			"time": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 1500).Draw(t, "ms")) * time.Millisecond)
				w.expire()
			},
			"wake": func(*rapid.T) { r := awake(); w.wake(r.next, func() { w.act(r, lease.Input{Kind: lease.TimerDue}) }) },
			"wake observer": func(*rapid.T) {
				o := observer()
				w.wake(o.next, func() { w.observe(o, lease.Input{Kind: lease.TimerDue}) })
			},
			"serve":           func(*rapid.T) { w.serve(some().call) },
			"serve observer":  func(*rapid.T) { w.serve(observer().call) },
			"finish":          func(*rapid.T) { w.finishRun(awake(), false) },
			"finish observer": func(*rapid.T) { w.finishObserver(observer(), false) },
			"lose":            func(*rapid.T) { w.finishRun(awake(), true) },
			"lose observer":   func(*rapid.T) { w.finishObserver(observer(), true) },
			"feed":            func(*rapid.T) { w.feed(awake()) },
			"show":            func(*rapid.T) { w.show(observer()) },
			"calm": func(t *rapid.T) {
				w.calm(time.Duration(rapid.IntRange(0, 5000).Draw(t, "calm ms")) * time.Millisecond)
			},
			"late write": func(*rapid.T) {
				if len(w.late) == 0 || !w.up {
					t.Skip("none")
				}
				late := w.late[0]
				w.late = w.late[1:]
				_, _ = w.put(late.Key, late) // nobody waits for the answer
			},
			"pause":          func(*rapid.T) { r := some(); r.paused = !r.paused },
			"pause observer": func(*rapid.T) { o := w.observers[0]; o.paused = !o.paused },
			"kill":           func(*rapid.T) { some().killed = true },
			"close":          func(*rapid.T) { r := awake(); w.follow(r, r.rules.stop(w.now)) },
			"drain": func(t *rapid.T) {
				draining := rapid.Bool().Draw(t, "draining")
				r := awake()
				w.follow(r, r.rules.edit(func(m *Member) { m.Draining = draining }, w.now))
			},
			"jetstream": func(*rapid.T) { w.up = !w.up },
			"delete": func(*rapid.T) {
				key := MemberKey(name())
				if e, ok := w.entries[key]; !ok || e.Operation != kv.Put || !w.up {
					t.Skip("nothing there")
				}
				w.set(kv.Entry{Key: key, Operation: kv.Deleted})
			},
			"scribble": func(*rapid.T) {
				if !w.up {
					t.Skip("away")
				}
				w.set(kv.Entry{Key: MemberKey(name()), Data: []byte(`{"nonsense":`)})
			},
			"void": func(*rapid.T) {
				if !lossy {
					t.Skip("not lossy")
				}
				w.lose()
			},
			"purge": func(*rapid.T) {
				if !lossy {
					t.Skip("not lossy")
				}
				w.purge()
			},
		}
		t.Repeat(actions)

		w.up, w.late = true, nil
		for _, r := range w.runs {
			r.paused = false
		}
		for _, o := range w.observers {
			o.paused = false
		}
		w.calm(long)
		want := w.holders()
		for i, o := range w.observers {
			if got := alive(o.rules.view()); !maps.Equal(got, want) {
				t.Fatalf("observer %d has %v, and there are %v", i, got, want)
			}
			if got := counted(o.told); !maps.Equal(got, want) {
				t.Fatalf("observer %d was told of %v, and there are %v", i, got, want)
			}
		}
		for _, r := range w.runs {
			e, ok := w.entries[r.rules.key]
			if r.live() && (!ok || !r.rules.ours() || e.Revision != r.rules.view.Revision || r.rules.view.record != r.rules.mine) {
				t.Fatalf("%s does not know what the bucket has", r.rules.mine.ID)
			}
		}
	})
}
