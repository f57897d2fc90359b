package demo

import (
	"sync"
	"time"

	"github.com/exesdb/subproxy/pkg/sink"
)

// ledger holds what was appended to a store against what each of its subscribers got, by the store's
// sequence.
type ledger struct {
	mu      sync.Mutex
	kinds   []uint8 // by sequence: the event's kind, plus one; 0: its append is not acknowledged
	sent    int
	last    uint64 // sequence acknowledged last
	pace    pace   // of the appends
	readers []*reader
}

// reader is a subscriber's part of the ledger.
type reader struct {
	subscription
	got       []uint8 // by sequence: how often it came, up to 255
	low       uint64  // nothing that is wanted is missing up to here
	highest   uint64
	delivered int // different events
	repeated  int // events that had come before
	foreign   int // events that the subscription does not want
	pace      pace
}

// newLedger is for a publisher that appends an event every interval.
func newLedger(subscriptions []subscription, interval time.Duration) *ledger {
	l := &ledger{pace: pace{every: interval}}
	for _, s := range subscriptions {
		l.readers = append(l.readers, &reader{subscription: s, pace: pace{every: time.Duration(s.every) * interval}})
	}
	return l
}

// at is the element of a list by sequence, which grows to have it.
func at(list *[]uint8, sequence uint64) *uint8 {
	for uint64(len(*list)) <= sequence {
		*list = append(*list, make([]uint8, sequence+1-uint64(len(*list)))...)
	}
	return &(*list)[sequence]
}

// appended notes that the append of an event of that kind was acknowledged.
func (l *ledger) appended(sequence uint64, kind int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*at(&l.kinds, sequence) = uint8(kind) + 1
	l.sent++
	l.last = max(l.last, sequence)
	l.pace.came(now)
	for _, r := range l.readers {
		if *at(&r.got, sequence) > 0 && !r.wants(kind) { // it came before its acknowledgement did
			r.foreign++
		}
	}
}

// arrived notes that a subscriber got an event.
func (l *ledger) arrived(r *reader, sequence uint64, when time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := at(&r.got, sequence)
	if *n > 0 {
		r.repeated++
	} else {
		r.delivered++
		if kind := *at(&l.kinds, sequence); kind > 0 && !r.wants(int(kind)-1) {
			r.foreign++
		}
	}
	if *n < 255 {
		*n++
	}
	r.highest = max(r.highest, sequence)
	r.pace.came(when)
}

// reset begins to measure pauses.
func (l *ledger) reset(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pace.reset(now)
	for _, r := range l.readers {
		r.pace.reset(now)
	}
}

// progress is how many events were appended, and the sequence of the last.
func (l *ledger) progress() (sent int, last uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent, l.last
}

// settled reports whether every subscriber has had all events up to a sequence that it wants. What core
// NATS lost on the way to a subscriber of sink publish does not come any more; it is enough there that
// later events came.
func (l *ledger) settled(upTo uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.readers {
		if n, last := l.missing(r, upTo); n > 0 && !(r.sink == sink.Publish && last < r.highest) {
			return false
		}
	}
	return true
}

// missing counts what a subscriber wants, up to a sequence, and has not had; last is the last of it.
func (l *ledger) missing(r *reader, upTo uint64) (n int, last uint64) {
	for sequence := r.low + 1; sequence <= upTo; sequence++ {
		kind := *at(&l.kinds, sequence)
		if kind > 0 && r.wants(int(kind)-1) && *at(&r.got, sequence) == 0 {
			n, last = n+1, sequence
		}
		if n == 0 && kind > 0 {
			r.low = sequence
		}
	}
	return n, last
}

// totals are a ledger's sums over its subscribers.
type totals struct {
	sent, delivered, duplicated, foreign int
	lost                                 int // wanted, appended and never delivered, by sinks request and stream
	dropped                              int // the same by sink publish, which promises nothing behind the server
}

func (t totals) plus(u totals) totals {
	return totals{
		t.sent + u.sent, t.delivered + u.delivered, t.duplicated + u.duplicated, t.foreign + u.foreign, t.lost + u.lost, t.dropped + u.dropped,
	}
}

// totals counts as lost what was appended up to a sequence; what came after it may still be on its way.
func (l *ledger) totals(upTo uint64) totals {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := totals{sent: l.sent}
	for _, r := range l.readers {
		t.delivered += r.delivered
		t.duplicated += r.repeated
		t.foreign += r.foreign
		if missing, _ := l.missing(r, upTo); r.sink == sink.Publish {
			t.dropped += missing
		} else {
			t.lost += missing
		}
	}
	return t
}

// pauses are the longest that a subscriber, and the publisher, stood still since the reset. That of a
// subscriber who does not have everything up to a sequence is not over.
func (l *ledger) pauses(upTo uint64, now time.Time) (delivery, publisher time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.readers {
		if n, last := l.missing(r, upTo); last > r.highest && n > 0 && !r.pace.last.IsZero() {
			delivery = max(delivery, now.Sub(r.pace.last))
		}
		delivery = max(delivery, r.pace.pause())
	}
	return delivery, l.pace.pause()
}
