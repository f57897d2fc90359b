package config

import (
	"os"
	"reflect"
	"time"
)

// Default is the configuration without a file: every default, this host's name, no stores.
func Default() *Config {
	var c Config
	setDefaults(schema, reflect.ValueOf(&c).Elem())
	c.Instance.Name = hostName()
	return &c
}

// Greenhouse is the built-in example, and what WriteDefaults writes: Default with the store
// greenhouse_tycoon.
func Greenhouse() *Config {
	c := Default()
	c.Stores = []Store{{
		ID:       "greenhouse_tycoon",
		Stream:   StoreStream{Replicas: 1, Storage: "file", Compression: "none"},
		Defaults: Defaults{Type: "by_event_type"},
		Subscriptions: []Subscription{
			{
				Name: "greenhouse_initialized_to_pubsub_v1", Type: "by_event_type", Selector: "greenhouse_initialized:v1",
				Forward: &Forward{Sink: "publish", Subject: "app.events.greenhouse", Timeout: 5 * time.Second, MaxDeliver: 5, OnGap: "continue"},
			},
			{Name: "temperature_measured_to_dashboard_v1", Type: "by_event_type", Selector: "temperature_measured:v1", StartVersion: -1},
			{Name: "audit", Type: "by_stream", Selector: "$all"},
			{Name: "frost_alarm", Type: "by_event_payload", Selector: `{"alarm":"frost"}`, StartVersion: -1},
		},
	}}
	return c
}

// hostName is empty where the host has none, which Parse reports.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}
