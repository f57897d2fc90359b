package delivery

import "github.com/exesdb/subproxy/pkg/registration"

// Receiver is the proxy's side of the hand-off: it decides which of the events that arrive on a deliver
// subject are forwarded. It is a plain value; the zero value has forwarded nothing.
//
// Each start of a proxy has a deliver subject of its own. So an emitter that sends there knows of this
// start, and begins at the subscription's checkpoint. The first event it sends has no predecessor (prev 0),
// and is the only one that a receiver forwards which has forwarded nothing. From then on an event is
// forwarded only if its predecessor is the event forwarded last. So no event is skipped and none is
// forwarded twice, whatever the network does, and however many emitters believe that they lead: the fence
// refuses those that do not know the latest term.
type Receiver struct {
	Fence uint64 // highest term seen
	Last  uint64 // sequence forwarded last
	begun bool   // an event was forwarded
	gapAt uint64 // sequence of the event that a gap was reported for, and nothing was forwarded since; 0: none
	epoch string // the history of the store that Last is of, where an emitter has told
}

// ReceiverAt is the receiver of a proxy that another one handed its subscription over to: it goes on after
// what the sink of the other one accepted.
func ReceiverAt(p registration.Position) Receiver {
	return Receiver{Last: p.Accepted, begun: p.Accepted > 0, epoch: p.Epoch}
}

// Decision is what to do with an event that arrived.
type Decision uint8

// The decisions.
const (
	Forward   Decision = iota // forward it
	Duplicate                 // acknowledge it again, don't forward it
	Gap                       // ask to send again from after Last
	GapAgain                  // the same gap, already reported
	StaleTerm                 // refuse it: there is a later leader
)

// String names the decision in metrics.
func (d Decision) String() string {
	return [...]string{"taken", "duplicate", "gap", "gap_again", "stale_term"}[d]
}

// Receive decides about the event of that sequence, sent by the leader of that term after the event prev.
func (r *Receiver) Receive(term, sequence, prev uint64) Decision {
	if r.stale(term) {
		return StaleTerm
	}
	switch {
	case r.begun && sequence <= r.Last:
		return Duplicate
	case prev != r.Last && r.gapAt > 0 && sequence > r.gapAt: // Last is 0 where nothing was forwarded
		return GapAgain // it was under way when the gap was reported
	case prev != r.Last:
		r.gapAt = sequence
		return Gap
	default:
		r.begun, r.gapAt, r.Last = true, 0, sequence
		return Forward
	}
}

// Answer prepares the answer to an emitter's question, which is Last. Where the question is about another
// history of the store, the receiver forgets what was forwarded: the same sequences are other events now.
func (r *Receiver) Answer(term uint64, epoch string) (forgot, stale bool) {
	if r.stale(term) {
		return false, true
	}
	r.gapAt = 0
	if epoch != "" && r.epoch != epoch {
		forgot = r.epoch != "" && r.begun
		r.epoch = epoch
	}
	if forgot {
		r.Last, r.begun = 0, false
	}
	return forgot, false
}

// Rewind goes back to what was accepted, and may be 0: what came after it is lost, and its sender is asked
// for it. What is under way from that sender is a gap that it knows of. So an event that was to be
// forwarded, and can't be, is given back with those before it.
func (r *Receiver) Rewind(accepted uint64) {
	r.gapAt = r.Last
	r.Last, r.begun = accepted, accepted > 0
}

func (r *Receiver) stale(term uint64) bool {
	if term < r.Fence {
		return true
	}
	if term > r.Fence {
		r.Fence, r.gapAt = term, 0
	}
	return false
}
