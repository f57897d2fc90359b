package cluster

import "github.com/prometheus/client_golang/prometheus"

// Metrics are what a program counts of the cluster events that it hears.
type Metrics struct {
	events    *prometheus.CounterVec // by kind
	malformed prometheus.Counter
}

// NewMetrics registers the metrics. A nil registerer leaves them unregistered, for tests and short-lived
// commands.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	m := &Metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "subproxy", Name: "cluster_events_received_total", Help: "Cluster events received, by event.",
		}, []string{"event"}),
		malformed: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "subproxy", Name: "cluster_events_malformed_total",
			Help: "Cluster events whose body or term could not be read; they were taken to mean every store, or to have no term.",
		}),
	}
	if registerer != nil {
		registerer.MustRegister(m.events, m.malformed)
	}
	return m
}

// Count counts one event.
func (m *Metrics) Count(e *Event) {
	m.events.WithLabelValues(string(e.Kind)).Inc()
	if e.Malformed || e.BadTerm {
		m.malformed.Inc()
	}
}
