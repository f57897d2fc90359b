package demo

import (
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/sink"
	types "github.com/exesdb/subproxy/pkg/subscription"
)

// What the ledger takes for wanted is what the product's own selectors pick, and comes as often as pauses
// are measured by.
func TestSubscriptionsWantWhatTheirSelectorsPick(t *testing.T) {
	for _, s := range greenhouse() {
		full := types.Subscription{Store: store, Type: s.typ, Selector: s.selector, Name: s.name}
		matcher, err := full.Compile()
		if err != nil {
			t.Fatal(err)
		}
		apart, widest := 0, 0
		for n := range 2 * kinds {
			e, kind := newEvent(store, n)
			if matcher.Match(e) != s.wants(kind) {
				t.Errorf("%s, kind %d: wanted %t, picked %t", s.name, kind, s.wants(kind), matcher.Match(e))
			}
			if apart++; s.wants(kind) {
				widest, apart = max(widest, apart), 0
			}
		}
		if widest != s.every || s.every > mostApart {
			t.Errorf("%s: every %d events, not %d; %d at the most", s.name, widest, s.every, mostApart)
		}
	}
}

func testLedger() (l *ledger, all, odd, published *reader) {
	odds := func(kind int) bool { return kind%2 == 1 }
	l = newLedger([]subscription{
		{name: "all", sink: sink.Stream, every: 1, wants: func(int) bool { return true }},
		{name: "odd", sink: sink.Request, every: 2, wants: odds},
		{name: "published", sink: sink.Publish, every: 2, wants: odds},
	}, time.Second)
	return l, l.readers[0], l.readers[1], l.readers[2]
}

func TestLedgerCountsWhatIsLostAndWhatCameTwice(t *testing.T) {
	l, all, odd, published := testLedger()
	now := time.Now()
	for sequence := range uint64(7) { // the events 1 to 6, of these kinds
		if sequence > 0 {
			l.appended(sequence, int(sequence), now)
		}
	}
	for _, sequence := range []uint64{1, 2, 2, 3, 5, 6} { // 4 is missing
		l.arrived(all, sequence, now)
	}
	for _, sequence := range []uint64{1, 3, 4} { // 5 is missing, 4 is not wanted
		l.arrived(odd, sequence, now)
	}
	for _, sequence := range []uint64{1, 5} { // 3 was dropped
		l.arrived(published, sequence, now)
	}
	if got, want := l.totals(6), (totals{sent: 6, delivered: 10, duplicated: 1, foreign: 1, lost: 2, dropped: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := l.totals(3); got.lost != 0 || got.dropped != 1 {
		t.Errorf("up to 3: got %+v", got)
	}
	if !l.settled(3) || l.settled(4) {
		t.Error("everything up to 3 was delivered or dropped, 4 was not")
	}
	l.arrived(all, 4, now)
	if l.settled(6) {
		t.Error("5 is missing")
	}
	l.arrived(odd, 5, now)
	if !l.settled(6) {
		t.Error("nothing is missing but what was dropped")
	}
	if got := l.totals(6); got.lost != 0 {
		t.Errorf("late is not lost: got %+v", got)
	}
}

func TestLedgerTakesEventsThatComeBeforeTheirAcknowledgement(t *testing.T) {
	l, all, odd, _ := testLedger()
	now := time.Now()
	l.arrived(all, 1, now)
	l.arrived(odd, 2, now)
	l.appended(1, 0, now)
	l.appended(2, 2, now)
	if got := l.totals(2); got != (totals{sent: 2, delivered: 2, foreign: 1, lost: 1}) {
		t.Errorf("got %+v", got)
	}
}

func TestPauseIsTheLongestGapBeyondTheUsual(t *testing.T) {
	l, all, _, _ := testLedger()
	began := time.Now()
	second := func(n int) time.Time { return began.Add(time.Duration(n) * time.Second) }
	for i, at := range []int{0, 20, 21, 22} { // the gap before 20 is not the fault's
		if at == 21 {
			l.reset(second(20))
		}
		l.appended(uint64(i+1), i, second(at))
		l.arrived(all, uint64(i+1), second(at))
	}
	l.arrived(all, 5, second(26))
	l.arrived(all, 6, second(28))
	if delivery, publisher := l.pauses(0, second(28)); delivery != 3*time.Second || publisher != 0 {
		t.Errorf("got %v and %v", delivery, publisher)
	}
	l.appended(7, 0, second(29))
	if delivery, publisher := l.pauses(7, second(40)); delivery != 12*time.Second || publisher != 6*time.Second {
		t.Errorf("while an event is missing: got %v and %v", delivery, publisher)
	}
}
