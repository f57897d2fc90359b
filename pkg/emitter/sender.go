package emitter

// Sender is the emitter's side of the hand-off for one subscription: which event is sent next, after which,
// and how far the checkpoint may move. It is a plain value. It holds sequences and no events: what has to
// be sent again is read again.
type Sender struct {
	Acked  uint64   // everything up to here was accepted, or looked at and not wanted: the checkpoint
	Sent   uint64   // sequence sent last, or known to be taken
	base   uint64   // nothing that the proxy knows of lies between link and here
	link   uint64   // what the proxy took last before base; 0: nothing
	flight []uint64 // sequences sent and not acknowledged, ascending
}

// NewSender begins after a checkpoint; 0 where there is none.
func NewSender(checkpoint uint64) Sender {
	return Sender{Acked: checkpoint, Sent: checkpoint, base: checkpoint}
}

// InFlight is how many events are sent and not acknowledged.
func (s *Sender) InFlight() int { return len(s.flight) }

// Idle reports whether everything that the proxy took is acknowledged.
func (s *Sender) Idle() bool { return len(s.flight) == 0 && s.Sent == s.Acked }

// Send notes that the event is sent, and returns what the proxy took before it: 0 for the one after the
// checkpoint, unless the proxy has said otherwise, since one that has just started knows of none before.
// The next event to be sent is always the first matching one after Sent.
func (s *Sender) Send(sequence uint64) (prev uint64) {
	if prev = s.Sent; prev == s.base {
		prev = s.link
	}
	s.Sent = sequence
	s.flight = append(s.flight, sequence)
	return prev
}

// unsend takes back the Send before which before was Sent.
func (s *Sender) unsend(before uint64) {
	s.Sent, s.flight = before, s.flight[:len(s.flight)-1]
}

// Ack takes a cumulative acknowledgement, and reports whether the checkpoint moved. One beyond what was
// sent is of a proxy that had more from the leader before this one: what it has is not sent again.
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

// Nak takes a proxy's word that it took last, and misses what came after: the next event sent is the one
// after it. Last is 0 for a proxy that has taken nothing yet. What lies between last and the checkpoint was
// accepted from another start of the proxy, or was not wanted.
func (s *Sender) Nak(last uint64) {
	if last <= s.Acked {
		s.base, s.link = s.Acked, last
	}
	s.Sent = max(last, s.Acked)
	for len(s.flight) > 0 && s.flight[len(s.flight)-1] > last {
		s.flight = s.flight[:len(s.flight)-1]
	}
}

// Skip moves the checkpoint of an idle subscription over events that it does not want.
func (s *Sender) Skip(to uint64) {
	if !s.Idle() || to <= s.Acked {
		return
	}
	if s.Sent != s.base {
		s.link = s.Sent
	}
	s.Acked, s.Sent, s.base = to, to, to
}

// Rewind is for when no answer came in time: everything that was not acknowledged is sent again.
func (s *Sender) Rewind() { s.Sent, s.flight = s.Acked, nil }
