package emitter

// Window is how many events of one subscription are in flight at the most: enough to hide a round trip at 200,000 events
// a second, and little enough that 10,000 blocked subscriptions hold nothing but their sequences.
const Window = 512

// Sender is the emitter's side of the hand-off for one subscription: which event is sent next, after which, and how far the
// checkpoint may move. It is a plain value. It holds sequences and no events: what has to be sent again is read again.
type Sender struct {
	Acked  uint64   // everything up to here was accepted: the checkpoint
	Sent   uint64   // sequence sent last, or known to be taken
	base   uint64   // the checkpoint that it began at
	linked bool     // the proxy has said what it took last, so that it knows what comes before the first event
	flight []uint64 // sequences sent and not acknowledged, ascending
}

// NewSender begins after a checkpoint; 0 where there is none.
func NewSender(checkpoint uint64) Sender {
	return Sender{Acked: checkpoint, Sent: checkpoint, base: checkpoint}
}

// Ready reports whether one more event may be in flight.
func (s *Sender) Ready() bool { return len(s.flight) < Window }

// Idle reports whether nothing is in flight.
func (s *Sender) Idle() bool { return len(s.flight) == 0 }

// Send notes that the event is sent, and returns the sequence sent before it: 0 for the one after the checkpoint, since a
// proxy that has just started knows of none before. The next event to be sent is always the first matching one after Sent.
func (s *Sender) Send(sequence uint64) (prev uint64) {
	if prev = s.Sent; prev == s.base && !s.linked {
		prev = 0
	}
	s.Sent = sequence
	s.flight = append(s.flight, sequence)
	return prev
}

// Ack takes a cumulative acknowledgement, and reports whether the checkpoint moved. One beyond what was sent is of a proxy that
// had more from the leader before this one: what it has is not sent again.
func (s *Sender) Ack(sequence uint64) (moved bool) {
	if sequence <= s.Acked {
		return false
	}
	s.Acked, s.Sent = sequence, max(s.Sent, sequence)
	n := 0
	for n < len(s.flight) && s.flight[n] <= sequence {
		n++
	}
	if s.flight = s.flight[n:]; len(s.flight) == 0 {
		s.flight = nil
	}
	return true
}

// Nak takes a proxy's word that it took last, and misses what came after: the next event sent is the one after it. Last is
// 0 for a proxy that has taken nothing yet.
func (s *Sender) Nak(last uint64) {
	s.linked = last > 0
	s.Sent = max(last, s.Acked)
	for len(s.flight) > 0 && s.flight[len(s.flight)-1] > last {
		s.flight = s.flight[:len(s.flight)-1]
	}
}

// Rewind is for when no answer came in time: everything that was not acknowledged is sent again.
func (s *Sender) Rewind() { s.Sent, s.flight = s.Acked, nil }
