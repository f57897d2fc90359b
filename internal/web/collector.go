package web

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/exesdb/subproxy/internal/service"
	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/status"
)

// collector reads, at the scrape, what an instance knows when asked: proxies by health, breakers, the feed.
type collector struct {
	service *service.Service
	limit   int // of subscriptions, above which none has metrics of its own
}

// NewCollector makes the collector of one instance. Above limit subscriptions, none has metrics of its own.
func NewCollector(s *service.Service, limit int) prometheus.Collector {
	return &collector{service: s, limit: limit}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("subproxy_"+name, help, labels, nil)
}

var (
	proxiesDesc       = desc("proxies", "Proxies by store and health.", "store", "health")
	breakersDesc      = desc("breakers", "Circuit breakers by store and state.", "store", "state")
	registeredDesc    = desc("registered", "Proxies whose registration the bucket holds, as far as is known.", "store")
	verifiedDesc      = desc("verified", "Proxies whose registration was read back.", "store")
	termDesc          = desc("leader_term", "Highest leader term heard of.", "store")
	connectedDesc     = desc("nats_connected", "1 while connected to NATS.")
	retiredDesc       = desc("superseded", "1 once another run of this instance's name took over.")
	refusingDesc      = desc("sinks_refusing", "Proxies whose sink takes no events.", "store")
	behindDesc        = desc("subscriptions_behind", "Proxies that have not delivered everything, as the store's emitter tells; absent while that is not known.", "store")
	lagDesc           = desc("lag_events", "Events of the store that the proxy furthest behind has not delivered; absent while that is not known.", "store")
	stalledDesc       = desc("subscriptions_stalled", "Proxies that are behind, and of which no event was accepted for status.stalled_after.", "store")
	troubleDesc       = desc("store_trouble", "1 while nobody here gets events of the store: no emitter leads it, its emitter says that it can't send, or a permission is missing.", "store")
	progressAgeDesc   = desc("progress_age_seconds", "Since the store's emitter last told how far it is; absent where it never did.", "store")
	queuedDesc        = desc("delivery_queued_bytes", "Bytes of events that wait for their sinks.")
	feedReceivedDesc  = desc("feed_messages_total", "Messages of the registry bucket handled by the feed.")
	feedDuplicateDesc = desc("feed_duplicates_total", "Messages that the feed dropped because it had them.")
	feedGapsDesc      = desc("feed_gaps_total", "Gaps in the live feed.")
	feedFilledDesc    = desc("feed_filled_total", "Messages read to fill gaps.")
	feedForeignDesc   = desc("feed_foreign_total", "Messages of another bucket of the same name that were heard, and ignored.")
	feedResetsDesc    = desc("feed_resets_total", "Times the bucket was found created anew or gone back.")
	feedSeqDesc       = desc("feed_last_sequence", "Last sequence of the registry bucket handled.")
	movingDesc        = desc("subscriptions_moving", "Subscriptions on their way from or to this instance.", "store")
	membersDesc       = desc("members", "Instances that live, as this one sees them, by what they are to do: hold a share, or nothing.", "state")
	sessionDesc       = desc("session", "1 while this instance's session is in the bucket, as far as it knows.")
	subHealthDesc     = desc("subscription_health", "1 for the health a subscription is in.", "store", "subscription", "health")
	subFailuresDesc   = desc("subscription_consecutive_failures", "Failed attempts in a row.", "store", "subscription")
	subLagDesc        = desc("subscription_lag_events", "Events of the store that it has not delivered, as the store's emitter tells; absent while that is not known.", "store", "subscription")
	subSeqDesc        = desc("subscription_last_sequence", "Sequence of the store that its sink accepted last.", "store", "subscription")
	subLatencyDesc    = desc("subscription_latency_seconds", "Of the last success, from the cause seen to verified.", "store", "subscription")
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		proxiesDesc, breakersDesc, registeredDesc, verifiedDesc, termDesc, connectedDesc, retiredDesc, feedReceivedDesc, feedDuplicateDesc,
		feedGapsDesc, feedFilledDesc, feedResetsDesc, feedForeignDesc, feedSeqDesc, subHealthDesc, subFailuresDesc, subLatencyDesc,
		subLagDesc, subSeqDesc, refusingDesc, behindDesc, lagDesc, stalledDesc, troubleDesc, progressAgeDesc, queuedDesc, movingDesc, membersDesc, sessionDesc,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	gauge(connectedDesc, truth(c.service.Connected()))
	gauge(retiredDesc, truth(c.service.Supervisor().Retired()))
	gauge(queuedDesc, float64(c.service.Queued()))
	sharing, draining, open := c.service.Members()
	gauge(membersDesc, float64(sharing), "sharing")
	gauge(membersDesc, float64(draining), "draining")
	gauge(sessionDesc, truth(open))
	f := c.service.FeedStats()
	counter(feedReceivedDesc, f.Received)
	counter(feedDuplicateDesc, f.Duplicates)
	counter(feedGapsDesc, f.Gaps)
	counter(feedFilledDesc, f.Filled)
	counter(feedResetsDesc, f.Resets)
	counter(feedForeignDesc, f.Foreign)
	gauge(feedSeqDesc, float64(f.LastSeq))

	// A loop that does not answer in this time is left out of this scrape.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	summaries, _ := c.service.Supervisor().Summaries(ctx)
	total := 0
	for _, s := range summaries {
		total += s.Subscriptions
		for _, h := range []breaker.Health{breaker.Healthy, breaker.Degraded, breaker.Failed, breaker.Standby, breaker.Unknown} {
			gauge(proxiesDesc, float64(s.Count(h)), s.Store, string(h))
		}
		for state, n := range map[breaker.State]int{breaker.Closed: s.Breakers.Closed, breaker.HalfOpen: s.Breakers.HalfOpen, breaker.Open: s.Breakers.Open} {
			gauge(breakersDesc, float64(n), s.Store, string(state))
		}
		gauge(registeredDesc, float64(s.Registered), s.Store)
		gauge(verifiedDesc, float64(s.Verified), s.Store)
		gauge(termDesc, float64(s.Term), s.Store)
		gauge(refusingDesc, float64(s.Refusing), s.Store)
		gauge(movingDesc, float64(s.Moving), s.Store)
		gauge(stalledDesc, float64(s.Stalled), s.Store)
		gauge(troubleDesc, truth(s.Trouble != ""), s.Store)
		if s.ProgressAt != nil {
			gauge(progressAgeDesc, time.Since(*s.ProgressAt).Seconds(), s.Store)
		}
		if s.Lag != nil {
			gauge(behindDesc, float64(s.Behind), s.Store)
			gauge(lagDesc, float64(*s.Lag), s.Store)
		}
	}
	if total > c.limit {
		return
	}
	statuses, _ := c.service.Supervisor().Statuses(ctx, control.Request{})
	for i := range statuses {
		subscriptionMetrics(&statuses[i], gauge)
	}
}

func subscriptionMetrics(st *status.Status, gauge func(*prometheus.Desc, float64, ...string)) {
	gauge(subHealthDesc, 1, st.Store, st.Name, string(st.Health))
	gauge(subFailuresDesc, float64(st.ConsecutiveFailures), st.Store, st.Name)
	gauge(subLatencyDesc, st.LatencyMS/1000, st.Store, st.Name)
	if st.Lag != nil {
		gauge(subLagDesc, float64(*st.Lag), st.Store, st.Name)
	}
	gauge(subSeqDesc, float64(st.LastSeq), st.Store, st.Name)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
