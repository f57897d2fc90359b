package delivery

import "github.com/exesdb/subproxy/pkg/sink"

// Counts are what an endpoint has seen.
type Counts struct {
	Last      uint64 // sequence that the sink accepted last
	Delivered uint64 // accepted
	Errors    uint64 // attempts that failed
	Parked    uint64
	Kind      sink.Kind
	Subject   string // where it delivers to
	InHand    uint64 // sequence of the event that it has not accepted yet; 0: none
	Waits     bool   // there is no memory for the next event, or it does not ask for it while the sink takes nothing
}

func (f *forwarder) counted() Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.counts
	c.Errors = f.health.failures
	c.Last, c.Kind, c.Subject = f.ack.accepted, f.target.config.Kind, f.target.config.Subject
	c.InHand = f.queue.inHand()
	c.Waits = len(f.queue.events) == 0 && f.d.memory.silent(&f.queue)
	return c
}
