package emitter

import "time"

// The window is how many events of one subscription are in flight at the most. It begins small, so that
// 10,000 subscribers that never answer hold little, doubles with each window that is acknowledged, and is
// halved where nothing is for a while. The largest hides a round trip of 2 ms at 200,000 events a second.
const (
	firstWindow = 32
	leastWindow = 1
	maxWindow   = 1024
	// hidden is the round trip that the largest window hides. Over a longer way it is as many times larger,
	// and the first window twice that: several of them would be several round trips. These are the most.
	hidden         = 2 * time.Millisecond
	farFirstWindow = 8192
	farMaxWindow   = 65536
	// maxInFlight bounds what is in flight in bytes; one event may always be.
	maxInFlight = 4 << 20
	// farInFlight is what may be over a way of farWay and more.
	farInFlight = 16 << 20
	farWay      = 100 * time.Millisecond
)

// flow is what is on its way to one subscription, and how much of it may be.
type flow struct {
	sender   Sender
	inFlight int    // bytes
	sizes    []size // of what is in flight
	window   int
	most     int  // that the window grows to; 0: maxWindow
	far      bool // the way is a long one
	full     bool // the window kept an event back
}

type size struct {
	sequence uint64
	bytes    int
}

// hasRoom reports whether one more event may be sent.
func (f *flow) hasRoom() bool {
	return f.sender.InFlight() < f.window && (f.inFlight < f.mostBytes() || f.sender.InFlight() == 0)
}

// hasHalfWindow reports whether it is worth going on after the window was full.
func (f *flow) hasHalfWindow() bool {
	return f.sender.InFlight() <= f.window/2 && f.inFlight <= f.mostBytes()/2
}

// mostBytes is how many bytes may be in flight.
func (f *flow) mostBytes() int {
	if f.far {
		return farInFlight
	}
	return maxInFlight
}

// sent notes an event's size.
func (f *flow) sent(sequence uint64, bytes int) {
	f.sizes = append(f.sizes, size{sequence, bytes})
	f.inFlight += bytes
}

// acknowledge takes a cumulative acknowledgement, and reports whether the checkpoint moved.
func (f *flow) acknowledge(sequence uint64) (moved bool) {
	if !f.sender.Ack(sequence) {
		return false
	}
	f.settle()
	return true
}

// goBack takes a proxy's word what it took last.
func (f *flow) goBack(last uint64) {
	f.sender.Nak(last)
	f.settle()
}

// rewind has everything that is not acknowledged sent again.
func (f *flow) rewind() {
	f.sender.Rewind()
	f.settle()
}

// restart begins again after the checkpoint, with the first window.
func (f *flow) restart() {
	f.sender = NewSender(f.sender.Acked)
	f.settle()
	f.window, f.full = firstWindow, false
}

// settle forgets the sizes of what is no longer in flight: acknowledged, or to be sent again.
func (f *flow) settle() {
	n := 0
	for n < len(f.sizes) && f.sizes[n].sequence <= f.sender.Acked {
		f.inFlight -= f.sizes[n].bytes
		n++
	}
	f.sizes = f.sizes[n:]
	for len(f.sizes) > 0 && f.sizes[len(f.sizes)-1].sequence > f.sender.Sent {
		f.inFlight -= f.sizes[len(f.sizes)-1].bytes
		f.sizes = f.sizes[:len(f.sizes)-1]
	}
	if len(f.sizes) == 0 {
		f.sizes, f.inFlight = nil, 0
	}
}

// reach has a session that begins hide a round trip of that length: it can't grow into it within a few
// events.
func (f *flow) reach(roundTrip time.Duration) {
	times := int(roundTrip / hidden)
	f.far = roundTrip >= farWay
	f.most = min(max(times*maxWindow, maxWindow), farMaxWindow)
	if f.window == firstWindow {
		f.window = min(max(2*times*firstWindow, firstWindow), farFirstWindow)
	}
}

// grow widens the window once a full one was acknowledged.
func (f *flow) grow() {
	if f.full && f.hasHalfWindow() {
		f.window, f.full = min(2*f.window, max(f.most, maxWindow)), false
	}
}
