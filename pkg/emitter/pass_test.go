package emitter

import (
	"testing"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/subscription"
)

func TestPageOfAPassThatWasGivenUpIsShownToNobody(t *testing.T) {
	l := &leader{store: "s", index: newIndex(), tail: newTrack(10), metrics: NewMetrics(nil)}
	s := &sub{name: "n", phase: running, window: firstWindow}
	if err := l.index.add(s, by(subscription.ByEventType, "of another stream")); err != nil {
		t.Fatal(err)
	}
	l.resume(s)
	l.startPass(t.Context())
	old := l.catchUp.passes[0]
	l.leave(s) // as a reset has it
	l.catchUp.end(old)
	l.resume(s)
	l.page(old, []feed.Message{{Subject: event.Subject("s", "g", "t"), Sequence: 1}}, nil)
	if waits := l.catchUp.waits(s); s.ride != nil || !waits {
		t.Errorf("it rides: %v, it waits for another pass: %v", s.ride != nil, waits)
	}
}
