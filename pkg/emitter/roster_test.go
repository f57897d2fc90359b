package emitter

import (
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

func TestEntriesOfABucketThatIsNoMoreHideNothingOfTheNewOne(t *testing.T) {
	l := newLeader(outside{})
	r := newRoster()
	r.attach(l)
	record := func(revision uint64, deliver string) {
		r.entry(record{registration.Registration{Subscription: by(subscription.ByStream, "$all"), DeliverSubject: deliver}, revision})
	}
	// All of it comes in one turn of the loop.
	record(100, "old")
	r.void()
	record(3, "new")
	told := l.inbox.empty()
	for _, call := range told.calls {
		call()
	}
	for i := range told.entries {
		l.subs.entry(&told.entries[i], time.Now())
	}
	for _, s := range l.subs.byKey {
		if s.registration.DeliverSubject != "new" {
			t.Errorf("it is sent to %s", s.registration.DeliverSubject)
		}
	}
}
