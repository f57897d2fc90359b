package supervisor

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

func TestWhatLooksIsAnsweredInTheMiddleOfARound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 1000)
		defer r.stop()
		admitted := make(chan int, 1)
		l := r.loops.byStore["s"]
		l.inbox.post(func(l *loop, now time.Time) {
			l.inbox.postUrgent(func(l *loop, _ time.Time) { admitted <- l.dispatcher.rounds })
			l.event(merged{cause: registration.LeaderChanged, seenAt: now})
		})
		synctest.Wait()
		if n := <-admitted; n == 0 || n > 2*stepsPerTurn {
			t.Errorf("answered when %d of 1000 attempts were admitted", n)
		}
	})
}

func TestWhatLooksSeesWhatWasAppliedBefore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 10)
		defer r.stop()
		seen := make(chan int, 2)
		look := func(l *loop, _ time.Time) { seen <- len(l.items) }
		l := r.loops.byStore["s"]
		l.inbox.post(func(l *loop, _ time.Time) {
			// All three wait while this is done, as they would while a round is.
			l.inbox.postUrgent(look)
			r.Apply(testSubscriptions(500))
			l.inbox.postUrgent(look)
		})
		synctest.Wait()
		if first, second := <-seen, <-seen; first > 500 || second != 500 {
			t.Errorf("saw %d, and then %d; want 500 after the Apply", first, second)
		}
	})
}

// Whatever is added while work is under way, no turn does more than it may, and what a step adds is done
// before the next step.
func TestWorkIsDoneInOrderAndInPartsThatAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := &agenda{}
		var done, want []string
		turn := 0
		var plan func(name string, depth int) work
		var expect []func()
		plan = func(name string, depth int) work {
			n := rapid.IntRange(0, 5).Draw(t, "steps")
			inner := make([][]work, n)
			for i := range n {
				step := fmt.Sprintf("%s.%d", name, i)
				expect = append(expect, func() { want = append(want, step) })
				if depth > 0 {
					for k := range rapid.IntRange(0, 2).Draw(t, "added") {
						inner[i] = append(inner[i], plan(fmt.Sprintf("%s+%d", step, k), depth-1))
					}
				}
			}
			return a.steps(n, func(i int, _ time.Time) {
				turn++
				done = append(done, fmt.Sprintf("%s.%d", name, i))
				a.add(inner[i]...)
			})
		}
		for i := range rapid.IntRange(1, 4).Draw(t, "works") {
			a.pending = append(a.pending, plan(fmt.Sprint(i), 2))
		}
		for _, f := range expect {
			f()
		}
		most := rapid.IntRange(1, 8).Draw(t, "most")
		for !a.done() {
			if turn = 0; len(a.pending) > 0 {
				a.run(time.Time{}, most)
			}
			if turn > most {
				t.Fatalf("%d steps in a turn that may do %d", turn, most)
			}
		}
		if !slices.Equal(done, want) {
			t.Fatalf("done %v, want %v", done, want)
		}
	})
}

func TestWhatTellsOfOneIsAnsweredBeforeWhatTellsOfAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 1000)
		defer r.stop()
		answered := make(chan int, 2)
		r.loops.byStore["s"].inbox.post(func(l *loop, _ time.Time) {
			for _, name := range []string{"", "sub_1"} {
				l.inbox.postUrgent(func(l *loop, _ time.Time) {
					l.begin(l.reporter.statuses(control.Request{Name: name}, func(all []status.Status) { answered <- len(all) }))
				})
			}
		})
		synctest.Wait()
		if first, second := <-answered, <-answered; first != 1 || second != 1000 {
			t.Errorf("%d were told of, and then %d", first, second)
		}
	})
}

func TestAnswerToAnActionOnAllIsMadeInParts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 1000)
		defer r.stop()
		reply, looked := make(chan []status.Status, 1), make(chan int, 1)
		r.loops.byStore["s"].inbox.postUrgent(func(l *loop, _ time.Time) {
			l.actions.open = append(l.actions.open, &action{items: slices.Clone(l.items), reply: reply})
			l.actions.closeSettled()
			l.inbox.postUrgent(func(*loop, time.Time) { looked <- len(reply) }) // in the next turn
		})
		synctest.Wait()
		if n := <-looked; n > 0 {
			t.Error("it is answered within a turn")
		}
		if n := len(<-reply); n != 1000 {
			t.Errorf("%d statuses", n)
		}
	})
}
