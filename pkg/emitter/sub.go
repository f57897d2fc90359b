package emitter

import (
	"github.com/exesdb/subproxy/pkg/registration"
)

// sub is one subscription, as the leader has it. The leader's loop owns it.
type sub struct {
	id    uint64 // in reply subjects
	key   string
	name  string
	group *group
	place int // in group.subs

	registration record
	local        bool // the proxy is in this process
	session
	flow
	pos     uint64   // everything up to here was looked at, while it is not attached
	segment *segment // nil: it waits, for room or for a pass
	outlet  *outlet  // nil: the proxy is in this process, or its deliver subject has no number
	line    *outlet  // in whose line it waits for room; nil: in none

	parked     uint64 // sequence of an event that can't be sent, and is parked; 0: none
	parking    bool
	checkpoint savedPlace
	loss       loss
}

// record is what the emitter needs of a registration's record.
type record struct {
	registration.Registration
	revision uint64
}

// startPosition is where a subscription with that start_version begins that has no place in the store yet.
func (s *sub) startPosition() uint64 { return uint64(max(s.registration.StartVersion-1, 0)) }

// known is the last event that the store must have: the checkpoint, unless that is only where the
// subscription is to begin.
func (s *sub) known() uint64 {
	if s.sender.Acked == s.startPosition() {
		return 0
	}
	return s.sender.Acked
}
