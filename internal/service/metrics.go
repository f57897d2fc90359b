package service

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/proxy"
)

// Metrics are what an instance's parts count, each its own.
type Metrics struct {
	proxies  *proxy.Metrics
	delivery *delivery.Metrics
	cluster  *cluster.Metrics
}

// NewMetrics registers the metrics. A nil registerer leaves them unregistered, for tests and short-lived commands.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	return &Metrics{proxies: proxy.NewMetrics(registerer), delivery: delivery.NewMetrics(registerer), cluster: cluster.NewMetrics(registerer)}
}
