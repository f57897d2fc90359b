package supervisor

import "github.com/prometheus/client_golang/prometheus"

// Metrics are what supervisors count while they work. What can be counted when asked for (proxies by
// health, breaker states) is collected at the scrape instead.
type Metrics struct {
	Attempts      *prometheus.CounterVec   // by cause and outcome
	Latency       *prometheus.HistogramVec // cause seen to verified, by cause
	Verifications *prometheus.CounterVec   // by outcome
	Ignored       *prometheus.CounterVec   // cluster events, by reason
	Coalesced     prometheus.Counter
	Alerts        *prometheus.CounterVec // by level
	Published     *prometheus.CounterVec // by message
	Superseded    prometheus.Counter
	Moves         *prometheus.CounterVec   // subscriptions, by move
	MoveSeconds   *prometheus.HistogramVec // by part
}

// NewMetrics registers the metrics. A nil registerer leaves them unregistered, for tests and short-lived
// commands.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	m := &Metrics{
		Attempts: counterVec("registration_attempts_total", "Registration attempts that ended, by cause and outcome.", "cause", "outcome"),
		Latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "subproxy", Name: "registration_latency_seconds", Help: "From the cause being seen to the registration being verified.",
			// Above the limit the native buckets become wider. With a NativeHistogramMinResetDuration
			// client_golang (1.25) would begin all of it anew instead: count, sum and the classic buckets
			// too.
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}, []string{"cause"}),
		Verifications: counterVec("verifications_total", "Registrations read back, by outcome.", "outcome"),
		Ignored:       counterVec("cluster_events_ignored_total", "Cluster events that caused nothing, by reason.", "reason"),
		Coalesced:     counter("cluster_events_coalesced_total", "Cluster events that were merged into a registration round not yet begun."),
		Alerts:        counterVec("alerts_total", "Alerts raised, by level and scope.", "level", "scope"),
		Published:     counterVec("messages_published_total", "Status, alert and summary messages published.", "message"),
		Superseded:    counter("superseded_total", "Proxies that another instance's higher incarnation superseded."),
		Moves:         counterVec("moves_total", "Subscriptions that this instance claimed because nobody held them or they were left to it, or left to another.", "move"),
		MoveSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "subproxy", Name: "move_seconds",
			Help:    "What a move of a subscription takes: release, from when its holder begins to give it up to when another is seen to have registered it or its record is deleted, and claim, from when it is taken to the new registration being verified.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}, []string{"part"}),
	}
	if registerer != nil {
		registerer.MustRegister(m.Attempts, m.Latency, m.Verifications, m.Ignored, m.Coalesced, m.Alerts, m.Published, m.Superseded, m.Moves, m.MoveSeconds)
	}
	return m
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "subproxy", Name: name, Help: help})
}

func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "subproxy", Name: name, Help: help}, labels)
}
