package emitter

import (
	"context"
	"sort"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
)

// entry is an event in memory, with the headers that it is sent with.
type entry struct {
	event  event.Event
	header nats.Header // of what is sent; Exesdb-Prev and Exesdb-Term are set each time
	size   int
	alone  bool  // one subscription wants it, and no other
	hole   *hole // in place of an event: what the stream did not show, up to its sequence
	given  bool  // to that one's proxy, with its headers: it can't be sent again
}

// segment is a part of the stream that is in memory and grows at its end. One is the tail, which grows as
// events are stored; the others are passes, which read old events for those that are behind. A subscription
// that has looked at all of a segment is attached to it: it is shown each event that comes. All that lies
// in (low, high] and was not deleted is in events.
type segment struct {
	low, high  uint64
	events     []*entry
	bytes      int
	consumedTo uint64 // the furthest that any subscription got
	attached   map[*sub]struct{}

	// Of a pass.
	ctx     context.Context // it reads until then
	end     context.CancelFunc
	pages   int               // read so far
	stretch *feed.BulkReader  // nil: it is short, so far
	pager   *feed.AheadReader // nil: the way to the server is short
	reading bool
	nothing int       // times in a row that the stream's leader had nothing after high
	emptyAt time.Time // since when nobody is attached and nothing was read or replayed; zero: it was since the last turn
	retryAt time.Time // not read before
}

func newSegment(at uint64) *segment {
	return &segment{low: at, high: at, consumedTo: at, attached: map[*sub]struct{}{}}
}

func (t *segment) add(e *entry) {
	t.events = append(t.events, e)
	t.high = e.event.Sequence
	t.bytes += e.size
}

// trim forgets the oldest events, so that at most so many and so many bytes are left.
func (t *segment) trim(most, mostBytes int) {
	drop := 0
	for drop < len(t.events) && (len(t.events)-drop > most || t.bytes > mostBytes) {
		t.low = t.events[drop].event.Sequence
		t.bytes -= t.events[drop].size
		t.events[drop] = nil
		drop++
	}
	if drop == 0 {
		return
	}
	t.events = t.events[drop:]
	// What append leaves behind is freed when it grows; an idle store must not keep it for ever.
	if cap(t.events) > 4*len(t.events)+1024 {
		t.events = append(make([]*entry, 0, len(t.events)), t.events...)
	}
}

// forget drops the oldest events, up to the one at the index.
func (t *segment) forget(index int) {
	t.low = t.events[index].event.Sequence
	for i := range t.events[:index+1] {
		t.bytes -= t.events[i].size
		t.events[i] = nil
	}
	t.events = t.events[index+1:]
}

// has reports whether everything after pos, up to high, is here.
func (t *segment) has(pos uint64) bool { return pos >= t.low }

// after is the index of the first event after pos.
func (t *segment) after(pos uint64) int {
	return sort.Search(len(t.events), func(i int) bool { return t.events[i].event.Sequence > pos })
}

// detach takes a subscription off the segment, all of which it was shown.
func (t *segment) detach(s *sub) {
	delete(t.attached, s)
	s.segment, s.pos = nil, max(s.pos, t.high)
}

// ahead is how many events nobody has come to yet.
func (t *segment) ahead() int { return len(t.events) - t.after(t.consumedTo) }
