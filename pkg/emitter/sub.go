package emitter

import (
	"time"

	"github.com/exesdb/subproxy/pkg/registration"
)

// The window is how many events of one subscription are in flight at the most. It begins small, so that 10,000 subscribers
// that never answer hold little, doubles with each window that is acknowledged, and is halved where nothing is for a while.
// The largest hides a round trip of 2 ms at 200,000 events a second.
const (
	firstWindow = 32
	leastWindow = 1
	maxWindow   = 1024
	// maxInFlight bounds what is in flight in bytes; one event may always be.
	maxInFlight = 4 << 20
)

// phase is where a subscription stands.
type phase uint8

const (
	absent  phase = iota // not registered; what is known of it is kept for a while
	loading              // its checkpoint is being read
	asking               // the proxy was asked what it took last, or is to be
	placing              // start -1: where it begins is being stored, before it gets anything
	running              // events are sent
	held                 // nobody listens on its deliver subject: until there is a newer registration, or a look again
)

// sub is one subscription, as the leader has it. The leader's loop owns it.
type sub struct {
	id    uint64 // in reply subjects
	key   string
	name  string
	group *group
	place int // in group.subs

	registration record
	phase        phase
	local        bool   // the proxy is in this process
	session      uint64 // counts deliver subjects and questions: an answer to an older one says nothing
	reply        string
	// since is the first session whose acknowledgements count. One from before is of another history of the store, and so of
	// other events, or of an incarnation that was superseded: its subscriber may have dropped what it says was accepted.
	since uint64
	// released says that the proxy gave the subscription back by itself, after it had acknowledged everything. That it did may be
	// heard later than who has it next.
	released bool

	sender   Sender
	inFlight int    // bytes
	sizes    []size // of what is in flight
	window   int
	full     bool    // the window kept an event back
	pos      uint64  // everything up to here was looked at, while it does not ride
	ride     *track  // nil: it waits, for room or for a pass
	outlet   *outlet // nil: the proxy is in this process, or its deliver subject has no number
	line     *outlet // in whose line it waits for room; nil: in none

	progressAt time.Time // the last acknowledgement, or the first event sent after all were
	askedAt    time.Time
	askWait    time.Duration // until it is asked again
	patient    bool          // it is to be asked, when its turn comes or there is something to send to it
	counted    bool          // in patients.asked

	parked     uint64 // sequence of an event that can't be sent, and is parked; 0: none
	parking    bool
	checkpoint savedPlace
	loss       loss
	absentFrom time.Time
}

type size struct {
	sequence uint64
	bytes    int
}

// record is what the emitter needs of a registration's record.
type record struct {
	registration.Registration
	revision uint64
}

// least is where a subscription with that start_version begins that has no place in the store yet.
func (s *sub) least() uint64 { return uint64(max(s.registration.StartVersion-1, 0)) }

// known is the last event that the store must have: the checkpoint, unless that is only where the subscription is to begin.
func (s *sub) known() uint64 {
	if s.sender.Acked == s.least() {
		return 0
	}
	return s.sender.Acked
}

// room reports whether one more event may be sent.
func (s *sub) room() bool {
	return s.sender.InFlight() < s.window && (s.inFlight < maxInFlight || s.sender.InFlight() == 0)
}

// roomy reports whether it is worth going on after the window was full.
func (s *sub) roomy() bool {
	return s.sender.InFlight() <= s.window/2 && s.inFlight <= maxInFlight/2
}

// sent notes an event's size.
func (s *sub) sent(sequence uint64, bytes int) {
	s.sizes = append(s.sizes, size{sequence, bytes})
	s.inFlight += bytes
	s.loss.fresh = false
}

// settle forgets the sizes of what is no longer in flight: acknowledged, or to be sent again.
func (s *sub) settle() {
	n := 0
	for n < len(s.sizes) && s.sizes[n].sequence <= s.sender.Acked {
		s.inFlight -= s.sizes[n].bytes
		n++
	}
	s.sizes = s.sizes[n:]
	for len(s.sizes) > 0 && s.sizes[len(s.sizes)-1].sequence > s.sender.Sent {
		s.inFlight -= s.sizes[len(s.sizes)-1].bytes
		s.sizes = s.sizes[:len(s.sizes)-1]
	}
	if len(s.sizes) == 0 {
		s.sizes, s.inFlight = nil, 0
	}
}

// grow widens the window once a full one was acknowledged.
func (s *sub) grow() {
	if s.full && s.roomy() {
		s.window, s.full = min(2*s.window, maxWindow), false
	}
}
