package supervisor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/exesdb/subproxy/pkg/registration"
)

func TestWhatLooksIsAnsweredInTheMiddleOfARound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 1000)
		defer r.stop()
		admitted := make(chan int, 1)
		l := r.loops["s"]
		l.inbox.post(func(l *loop, now time.Time) {
			l.inbox.postUrgent(func(l *loop, _ time.Time) { admitted <- l.dispatcher.rounds })
			l.event(merged{cause: registration.LeaderChanged, seenAt: now}, now)
		})
		synctest.Wait()
		if n := <-admitted; n == 0 || n > 2*breath {
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
		l := r.loops["s"]
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
