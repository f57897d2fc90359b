package proxy

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

// Receive decides about the event of that sequence, sent by the leader of that term after the event prev.
func (r *Receiver) Receive(term, sequence, prev uint64) Verdict {
	if term < r.Fence {
		return StaleTerm
	}
	if term > r.Fence {
		r.Fence, r.gapAt = term, 0
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
