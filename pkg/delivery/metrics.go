package delivery

import "github.com/prometheus/client_golang/prometheus"

// Metrics are what an instance counts of the events that it receives and forwards.
type Metrics struct {
	Received  *prometheus.CounterVec // events from emitters, by decision
	Forwarded *prometheus.CounterVec // events that a sink accepted, by sink
	Refused   prometheus.Counter     // attempts to forward that failed
	Parked    prometheus.Counter
}

// NewMetrics registers the metrics. A nil registerer leaves them unregistered, for tests and short-lived
// commands.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	m := &Metrics{
		Received:  counterVec("events_received_total", "Events from emitters, by what was made of them.", "verdict"),
		Forwarded: counterVec("events_forwarded_total", "Events that a sink accepted, by sink.", "sink"),
		Refused:   counter("forward_errors_total", "Attempts to forward an event that failed."),
		Parked:    counter("events_parked_total", "Events that were refused max_deliver times and are parked."),
	}
	if registerer != nil {
		registerer.MustRegister(m.Received, m.Forwarded, m.Refused, m.Parked)
	}
	return m
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "subproxy", Name: name, Help: help})
}

func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "subproxy", Name: name, Help: help}, labels)
}
