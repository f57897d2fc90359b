package delivery

import (
	"testing"

	"github.com/nats-io/nats.go"
)

func TestQueueGivesBackTheMemoryOfWhatLeavesIt(t *testing.T) {
	room := newWaitingRoom(1 << 20)
	q := queue{room: room}
	fill := func() {
		for _, sequence := range []uint64{1, 0, 2} {
			e := queued{load: loadOf(&nats.Msg{Data: make([]byte, 100)}, true)}
			e.event.Sequence = sequence
			if !q.add(&e, queues) {
				t.Fatal("there is no room")
			}
		}
	}
	each := room.bytes
	fill()
	one := each() / 3
	q.removeFirst()
	if len(q.events) != 2 || each() != 2*one {
		t.Errorf("%d events with %d bytes", len(q.events), each())
	}
	q.clearNumbered()
	if len(q.events) != 1 || q.inHand() != 0 || each() != one {
		t.Errorf("%d events with %d bytes are without a sequence", len(q.events), each())
	}
	q.clear()
	fill()
	q.drop()
	if q.inHand() != 1 || len(q.events) > 0 || each() != 0 {
		t.Errorf("event %d is in hand, %d wait, with %d bytes", q.inHand(), len(q.events), each())
	}
}
