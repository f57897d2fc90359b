package emitter

import (
	"time"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
)

// straysToldFor is how long it is told that messages were no events, after the last of them.
const straysToldFor = time.Hour

// strays are the messages of the store's stream that are no events, as the leader tells of them. The
// leader's loop owns them.
type strays struct {
	found   event.PassedOver
	through uint64    // sequence of the last that was counted: one that is read again does not count again
	news    bool      // something was found since progress was told last
	saidAt  time.Time // when one was logged last
}

// add notes one.
func (s *strays) add(m *feed.Message, reason error, now time.Time) {
	if m.Sequence <= s.through {
		return
	}
	if now.Sub(s.found.At) >= straysToldFor {
		s.found.Messages = 0
	}
	s.through, s.news = m.Sequence, true
	s.found = event.PassedOver{
		Messages: s.found.Messages + 1, Sequence: m.Sequence, Subject: event.Brief(m.Subject), Reason: event.Brief(reason.Error()), At: now.UTC(),
	}
}

// say reports whether it is time to log one: once a minute.
func (s *strays) say(now time.Time) bool {
	if now.Sub(s.saidAt) < sayTroubleAgain {
		return false
	}
	s.saidAt = now
	return true
}

// tell is what there is to tell; nil: nothing.
func (s *strays) tell(now time.Time) *event.PassedOver {
	if s.found.Messages == 0 || now.Sub(s.found.At) >= straysToldFor {
		return nil
	}
	found := s.found
	return &found
}

// forget is for another history of the store, whose sequences mean other messages.
func (s *strays) forget() { s.through = 0 }
