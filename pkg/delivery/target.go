package delivery

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/exesdb/subproxy/pkg/sink"
)

// target is where the events of an endpoint go: its sink, as it was when the delivery was refreshed last.
type target struct {
	sink      sink.Sink
	sender    sink.Sender // sink, where that sends on the delivery's publisher; nil: it doesn't
	waits     bool        // a worker delivers, and not whoever brings an event
	config    sink.Config
	asOf      uint64 // one more than Delivery.refresh was when the sink was made; 0: there is none
	forwarded prometheus.Counter
}

// refresh sets the target anew where the delivery was refreshed since. It returns the sink.
func (t *target) refresh(f *forwarder) sink.Sink {
	if asOf := f.d.refresh.Load() + 1; t.asOf != asOf {
		t.asOf = asOf
		t.sink, t.config = f.d.Sink(f.subscription)
		sender, sends := t.sink.(sink.Sender)
		if sends && sender.Publisher() != f.d.confirming.publisher {
			sender = nil
		}
		t.sender, t.waits = sender, sends || t.config.Blocks()
		t.forwarded = f.d.Metrics.Forwarded.WithLabelValues(string(t.config.Kind))
	}
	return t.sink
}
