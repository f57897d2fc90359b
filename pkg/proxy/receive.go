package proxy

import "github.com/exesdb/subproxy/pkg/registration"

// Receiver is the proxy's side of the hand-off: which of the events that arrive on its deliver subject it takes. It is a
// plain value; the zero value has taken nothing.
//
// Each proxy start has a deliver subject of its own, so whoever sends to it knows of this start and begins at the
// subscription's checkpoint; the event it begins with was sent after none (prev 0), and is the only one that a proxy takes
// which has taken nothing. From then on an event is taken only if the one sent before it is the one taken last. So nothing
// is skipped and nothing is taken twice, whatever the network does, and however many emitters believe that they lead: the
// fence refuses those that do not know the latest term.
type Receiver struct {
	Fence uint64 // highest term seen
	Last  uint64 // sequence taken last
	taken bool   // any was
	gapAt uint64 // sequence of the event that a gap was reported for, and nothing was taken since; 0: none
	epoch string // the history of the store that Last is of, where an emitter has told
}

// ReceiverAt is that of a proxy to which another handed its subscription over: it goes on as if it had taken itself what that one's
// sink accepted.
func ReceiverAt(p registration.Position) Receiver {
	return Receiver{Last: p.Accepted, taken: p.Accepted > 0, epoch: p.Epoch}
}

// Verdict is what to do with an event that arrived.
type Verdict uint8

// The verdicts.
const (
	Take      Verdict = iota // forward it
	Duplicate                // acknowledge it again, don't forward it
	Gap                      // ask to send again from after Last
	GapAgain                 // the same gap, already reported
	StaleTerm                // refuse it: there is a later leader
)

// String names the verdict in metrics.
func (v Verdict) String() string {
	return [...]string{"taken", "duplicate", "gap", "gap_again", "stale_term"}[v]
}

// Receive decides about the event of that sequence, sent by the leader of that term after the event prev.
func (r *Receiver) Receive(term, sequence, prev uint64) Verdict {
	if r.stale(term) {
		return StaleTerm
	}
	switch {
	case r.taken && sequence <= r.Last:
		return Duplicate
	case prev != r.Last && r.gapAt > 0 && sequence > r.gapAt: // Last is 0 where nothing was taken
		return GapAgain // it was under way when the gap was reported
	case prev != r.Last:
		r.gapAt = sequence
		return Gap
	default:
		r.taken, r.gapAt, r.Last = true, 0, sequence
		return Take
	}
}

// Ask takes an emitter's question, which is answered with Last. Where it is about another history of the store, what was
// taken is forgotten: the same sequences are other events now.
func (r *Receiver) Ask(term uint64, epoch string) (forgot, stale bool) {
	if r.stale(term) {
		return false, true
	}
	r.gapAt = 0
	if epoch != "" && r.epoch != epoch {
		forgot = r.epoch != "" && r.taken
		r.epoch = epoch
	}
	if forgot {
		r.Last, r.taken = 0, false
	}
	return forgot, false
}

// Rewind goes back to what was accepted, and may be 0: what was taken after it is lost, and its sender is asked for it. What is under way
// from that sender is a gap that it knows of. So an event is given back that was to be taken, and can't be: with what was taken before it.
func (r *Receiver) Rewind(accepted uint64) {
	r.gapAt = r.Last
	r.Last, r.taken = accepted, accepted > 0
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
