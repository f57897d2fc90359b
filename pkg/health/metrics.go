package health

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the counters that the packages keep while they work. What can be counted when asked for (proxies by
// health, breaker states) is collected at the scrape instead: see internal/web.
type Metrics struct {
	Attempts      *prometheus.CounterVec   // by cause and outcome
	Latency       *prometheus.HistogramVec // cause seen to verified, by cause
	Verifications *prometheus.CounterVec   // by outcome
	Events        *prometheus.CounterVec   // cluster events received, by event
	Ignored       *prometheus.CounterVec   // by reason
	Malformed     prometheus.Counter
	Coalesced     prometheus.Counter
	Alerts        *prometheus.CounterVec // by level
	Published     *prometheus.CounterVec // by message
	Superseded    prometheus.Counter
	Moves         *prometheus.CounterVec   // subscriptions, by move
	MoveSeconds   *prometheus.HistogramVec // by part
	Received      *prometheus.CounterVec   // events from emitters, by verdict
	Forwarded     *prometheus.CounterVec   // events that a sink accepted, by sink
	Refused       prometheus.Counter       // attempts to forward that failed
	Parked        prometheus.Counter
}

// NewMetrics registers the metrics. A nil registerer leaves them unregistered, for tests and short-lived commands.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "subproxy", Name: name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "subproxy", Name: name, Help: help}, labels)
	}
	m := &Metrics{
		Attempts: vec("registration_attempts_total", "Registration attempts that ended, by cause and outcome.", "cause", "outcome"),
		Latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "subproxy", Name: "registration_latency_seconds", Help: "From the cause being seen to the registration being verified.",
			// Above the limit the native buckets become wider. With a NativeHistogramMinResetDuration client_golang (1.25) would
			// begin all of it anew instead: count, sum and the classic buckets too.
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}, []string{"cause"}),
		Verifications: vec("verifications_total", "Registrations read back, by outcome.", "outcome"),
		Events:        vec("cluster_events_received_total", "Cluster events received, by event.", "event"),
		Ignored:       vec("cluster_events_ignored_total", "Cluster events that caused nothing, by reason.", "reason"),
		Malformed:     counter("cluster_events_malformed_total", "Cluster events whose body or term could not be read; they were taken to mean every store, or to have no term."),
		Coalesced:     counter("cluster_events_coalesced_total", "Cluster events that were merged into a registration round not yet begun."),
		Alerts:        vec("alerts_total", "Alerts raised, by level and scope.", "level", "scope"),
		Published:     vec("messages_published_total", "Status, alert and summary messages published.", "message"),
		Superseded:    counter("superseded_total", "Proxies that another instance's higher incarnation superseded."),
		Moves:         vec("moves_total", "Subscriptions that this instance claimed because nobody held them or they were left to it, or left to another.", "move"),
		MoveSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "subproxy", Name: "move_seconds",
			Help:    "What a move of a subscription takes: release, from when its holder begins to give it up to when another is seen to have registered it or its record is deleted, and claim, from when it is taken to the new registration being verified.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}, []string{"part"}),
		Received:  vec("events_received_total", "Events from emitters, by what was made of them.", "verdict"),
		Forwarded: vec("events_forwarded_total", "Events that a sink accepted, by sink.", "sink"),
		Refused:   counter("forward_errors_total", "Attempts to forward an event that failed."),
		Parked:    counter("events_parked_total", "Events that were refused max_deliver times and are parked."),
	}
	if registerer != nil {
		registerer.MustRegister(m.Attempts, m.Latency, m.Verifications, m.Events, m.Ignored, m.Malformed, m.Coalesced, m.Alerts, m.Published, m.Superseded, m.Moves, m.MoveSeconds,
			m.Received, m.Forwarded, m.Refused, m.Parked)
	}
	return m
}
