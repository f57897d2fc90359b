package emitter

import "github.com/prometheus/client_golang/prometheus"

// Metrics are what an emitter counts.
type Metrics struct {
	Leads         *prometheus.GaugeVec // 1 while it leads, by store
	Term          *prometheus.GaugeVec
	Last          *prometheus.GaugeVec // last sequence of the store
	Subscriptions *prometheus.GaugeVec // by store and state
	Behind        *prometheus.GaugeVec
	Trouble       *prometheus.GaugeVec // 1 while the store's stream can't be followed or a permission is missing, by store
	Sent          prometheus.Counter
	Read          prometheus.Counter
	Passes        prometheus.Counter
	Rewound       prometheus.Counter
	Nobody        prometheus.Counter
	Stale         prometheus.Counter
	Ignored       prometheus.Counter
	Malformed     prometheus.Counter
	PassedOver    *prometheus.CounterVec // by kind
	Gone          *prometheus.CounterVec // by store
	Holes         *prometheus.CounterVec // by store
	Checkpoints   prometheus.Counter
	Restored      prometheus.Counter
}

// NewMetrics registers the metrics. A nil registerer leaves them unregistered.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "subproxy", Subsystem: "emitter", Name: name, Help: help}, labels)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "subproxy", Subsystem: "emitter", Name: name, Help: help})
	}
	m := &Metrics{
		Leads:         gauge("leads", "1 while this process leads the store's emitters.", "store"),
		Term:          gauge("term", "Term of the store's leader, where this process leads.", "store"),
		Last:          gauge("last_sequence", "Last sequence of the store.", "store"),
		Subscriptions: gauge("subscriptions", "Subscriptions by state: running, held (nobody listens on the deliver subject), asking.", "store", "state"),
		Behind:        gauge("behind", "Subscriptions that have not acknowledged everything they want.", "store"),
		Trouble:       gauge("trouble", "1 while this process leads and the store's stream can't be followed, or a permission is missing; the log and the progress say why.", "store"),
		Sent:          counter("sent_total", "Events sent to proxies, again or for the first time."),
		Read:          counter("read_total", "Events read from the stream for subscriptions that are behind."),
		Passes:        counter("passes_total", "Passes over old events begun."),
		Rewound:       counter("rewound_total", "Times that a proxy missed something and events were sent again."),
		Nobody:        counter("no_responders_total", "Times that nobody listened on a deliver subject."),
		Stale:         counter("stale_term_total", "Events refused because the proxy knows a later term."),
		Ignored:       counter("acknowledgements_ignored_total", "Acknowledgements of a proxy that was superseded, or of a history of the store that is no more; they are not counted."),
		Malformed:     counter("malformed_total", "Messages of the stream that are no events; they are passed over."),
		Gone: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "subproxy", Subsystem: "emitter", Name: "gone_total",
			Help: "Events that a limit, a purge or a deletion removed from the store's stream before a subscription had them, at the most; each subscription counts.",
		}, []string{"store"}),
		Holes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "subproxy", Subsystem: "emitter", Name: "holes_total",
			Help: "Sequences after the stream's first message that it did not have when they were read: deleted, or dropped by a limit per subject. Each reading counts.",
		}, []string{"store"}),
		PassedOver: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "subproxy", Subsystem: "emitter", Name: "passed_over_total",
			Help: "Messages of the stream that are no events, by kind: marker, schedule, malformed. Each reading of one counts.",
		}, []string{"kind"}),
		Checkpoints: counter("checkpoints_written_total", "Checkpoints written."),
		Restored:    counter("checkpoints_restored_total", "Checkpoints that were missing, and restored from what the proxy took."),
	}
	if registerer != nil {
		registerer.MustRegister(m.Leads, m.Term, m.Last, m.Subscriptions, m.Behind, m.Trouble, m.Sent, m.Read, m.Passes, m.Rewound, m.Nobody, m.Stale,
			m.Ignored, m.Malformed, m.PassedOver, m.Gone, m.Holes, m.Checkpoints, m.Restored)
	}
	return m
}
