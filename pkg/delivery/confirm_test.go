package delivery

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/sink"
)

// Confirmations that come in any order, and some of which fail, never count an event as accepted before one
// that is not known to be with the server, and none twice.
func TestWhatIsOnItsWayIsCountedOnceAndInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var way transit
		var asked []waypoint
		type event struct{ sequence, number uint64 }
		var open []event // sent and neither confirmed nor given up
		sequence, number, accepted, counted, were := uint64(0), uint64(0), uint64(0), uint64(0), uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"send": func(*rapid.T) {
				if way.doubts {
					way.doubts = false // one was accepted by itself
				}
				sequence++
				number++
				way.note(nil, sequence, sink.Mark{})
				open = append(open, event{sequence, number})
			},
			"ask": func(*rapid.T) { asked = append(asked, way.ask(nil)) },
			"answer": func(t *rapid.T) {
				if len(asked) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(asked)-1).Draw(t, "which")
				m := asked[i]
				asked = append(asked[:i], asked[i+1:]...)
				if way.settled(m) {
					return
				}
				if rapid.Bool().Draw(t, "fails") {
					way.giveUp()
					sequence, open = accepted, nil // the emitter sends again what comes after what was accepted
					return
				}
				counted += way.confirm(m, sink.Mark{})
				accepted = m.last
				for len(open) > 0 && open[0].number <= m.count {
					were++
					open = open[1:]
				}
			},
			"": func(t *rapid.T) {
				if counted != were {
					t.Fatalf("%d are counted, %d were confirmed", counted, were)
				}
				if accepted != were {
					t.Fatalf("%d is accepted, and %d events are", accepted, were)
				}
				if way.underWay() != (len(open) > 0) {
					t.Fatalf("under way: %v, of %d", way.underWay(), len(open))
				}
			},
		})
	})
}

func TestRewoundReceiverTakesAgainWhatWasNotAccepted(t *testing.T) {
	for _, accepted := range []uint64{0, 2} {
		var r Receiver
		for seq := uint64(1); seq <= 5; seq++ {
			if v := r.Receive(1, seq, seq-1); v != Forward {
				t.Fatalf("%d: %v", seq, v)
			}
		}
		r.Rewind(accepted)
		if v := r.Receive(1, 6, 5); v != GapAgain { // it was under way
			t.Errorf("what was under way: %v", v)
		}
		for seq := accepted + 1; seq <= 7; seq++ {
			if v := r.Receive(1, seq, seq-1); v != Forward {
				t.Errorf("%d after %d was accepted: %v", seq, accepted, v)
			}
		}
	}
}
