package delivery

import (
	"errors"

	"github.com/exesdb/subproxy/pkg/sink"
)

// health is whether a sink accepts events, and whether the holder was told that it doesn't. It is a plain
// value; the zero value is well.
type health struct {
	failures uint64 // attempts that failed, in all
	failing  int    // attempts in a row that failed, or whose events are parked
	told     bool   // the holder knows that it fails
	unparked bool   // and that the event in hand can't be parked
}

// tellAfter is how many attempts in a row fail before it is said.
const tellAfter = 3

// fail notes an attempt that failed, and reports whether to tell the holder. That a permission is missing
// is said at once.
func (h *health) fail(err error) (tell bool) {
	h.failures++
	h.failing++
	if h.failing < tellAfter && !errors.Is(err, sink.ErrDenied) {
		return false
	}
	return h.setTold()
}

// setTold reports whether the holder is to be told, which is once until the sink accepts an event.
func (h *health) setTold() (tell bool) {
	tell = !h.told
	h.told = true
	return tell
}

// holdUp notes that an event is neither accepted nor parked, and reports whether to tell the holder, which
// is once for each event.
func (h *health) holdUp() (tell bool) {
	tell = !h.unparked
	h.unparked, h.told = true, true
	return tell
}

// park notes that an event is parked. The holder is told of each.
func (h *health) park() {
	h.failing++
	h.told = true
}

// recover notes that the sink accepted an event. It reports whether it failed before, and whether to tell
// the holder that it doesn't now.
func (h *health) recover() (failed, tell bool) {
	failed, tell = h.failing > 0, h.told
	h.failing, h.told = 0, false
	return failed, tell
}

// failed notes an attempt that failed. What it returns is called once f.mu is free.
func (f *forwarder) failed(err error) (tell func()) {
	f.d.Metrics.Refused.Inc()
	if !f.health.fail(err) || f.closed {
		return nothing
	}
	reason := err.Error()
	return func() { f.notify(reason) }
}

// healthy notes that the sink accepts events. What it returns is called once f.mu is free.
func (f *forwarder) healthy() (tell func()) {
	f.transit.doubts = false
	failed, told := f.health.recover()
	if failed {
		f.d.memory.accepts(&f.queue)
	}
	if !told || f.closed {
		return nothing
	}
	return func() { f.notify("") }
}
