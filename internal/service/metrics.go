package service

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/exesdb/subproxy/internal/instance"
	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/supervisor"
)

// NewMetrics registers the metrics of an instance's parts. A nil registerer leaves them unregistered, for
// tests and short-lived commands.
func NewMetrics(registerer prometheus.Registerer) *instance.Metrics {
	return &instance.Metrics{Proxies: supervisor.NewMetrics(registerer), Delivery: delivery.NewMetrics(registerer), Cluster: cluster.NewMetrics(registerer)}
}
