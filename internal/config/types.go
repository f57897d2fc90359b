package config

import "time"

// Config is the whole configuration. Tags: yaml is the key; default its default; range the least and the most; enum
// the values allowed; check a further check by name; doc what it is.
type Config struct {
	NATS              NATS              `yaml:"nats" doc:"how to reach NATS"`
	Instance          Instance          `yaml:"instance" doc:"this instance"`
	Registry          Registry          `yaml:"registry" doc:"the bucket of registrations; created if absent"`
	SubscriptionProxy SubscriptionProxy `yaml:"subscription_proxy" doc:"when to register, and what failures mean"`
	Status            Status            `yaml:"status" doc:"what is published how often"`
	Bridge            Bridge            `yaml:"bridge" doc:"JetStream's leader elections as cluster events"`
	HTTP              HTTP              `yaml:"http" doc:"the HTTP server"`
	Metrics           Metrics           `yaml:"metrics" doc:"Prometheus metrics"`
	Log               Log               `yaml:"log" doc:"log lines, on standard error"`
	Stores            []Store           `yaml:"stores" doc:"the event stores and their subscriptions; at least one of each"`
}

// NATS says how to reach NATS.
type NATS struct {
	URL         string `yaml:"url" default:"nats://127.0.0.1:4222" check:"url" doc:"servers, comma-separated"`
	Context     string `yaml:"context" doc:"a context of the nats CLI, in place of url and credentials"`
	Credentials string `yaml:"credentials" check:"file" doc:"credentials file"`
	TLS         TLS    `yaml:"tls" doc:"TLS"`
}

// TLS are the files and options of TLS.
type TLS struct {
	CA             string `yaml:"ca" check:"file" doc:"certificate authority that the servers' certificates are checked against"`
	Cert           string `yaml:"cert" check:"file" doc:"client certificate; needs key"`
	Key            string `yaml:"key" check:"file" doc:"client key; needs cert"`
	HandshakeFirst bool   `yaml:"handshake_first" default:"false" doc:"handshake before the server's greeting"`
}

// Instance names this instance.
type Instance struct {
	Name string `yaml:"name" doc:"stable over restarts: a run supersedes the one before it of the same name; default the host name"`
}

// Registry says which bucket, and how it is created.
type Registry struct {
	Bucket   string `yaml:"bucket" default:"exesdb_subscriptions" check:"bucket" doc:"bucket name"`
	Replicas int    `yaml:"replicas" default:"1" enum:"1|3|5" doc:"replicas of a bucket that is created"`
	Storage  string `yaml:"storage" default:"file" enum:"file|memory" doc:"storage of a bucket that is created"`
}

// SubscriptionProxy is the tuning block; its names are those it has always had.
type SubscriptionProxy struct {
	InitialReregisterInterval       time.Duration `yaml:"initial_reregister_interval" default:"1s" range:"10ms..1h" doc:"from the first success to the first timer-driven registration"`
	NormalReregisterInterval        time.Duration `yaml:"normal_reregister_interval" default:"15s" range:"100ms..24h" doc:"between timer-driven registrations after that, when nothing is heard"`
	RetryReregisterInterval         time.Duration `yaml:"retry_reregister_interval" default:"3s" range:"10ms..1h" doc:"between retries without exponential backoff"`
	MaxConsecutiveFailures          int           `yaml:"max_consecutive_failures" default:"5" range:"1..1000" doc:"failures in a row at which the breaker opens and health is failed"`
	FailureNotificationThreshold    int           `yaml:"failure_notification_threshold" default:"3" range:"1..1000" doc:"failures in a row from which health is degraded; not above max_consecutive_failures"`
	EnableExponentialBackoff        bool          `yaml:"enable_exponential_backoff" default:"true" doc:"retry after 1s, 2s, 4s and so on"`
	MaxBackoffInterval              time.Duration `yaml:"max_backoff_interval" default:"60s" range:"100ms..24h" doc:"longest wait before a retry"`
	EnableClusterEventSubscriptions bool          `yaml:"enable_cluster_event_subscriptions" default:"true" doc:"false leaves only the timer: no cluster events, reconnects, advisories or lost registrations"`
	LeaderChangedSubject            string        `yaml:"leader_changed_subject" default:"exesdb.cluster.leader_changed" check:"subject" doc:"subject of leader changes"`
	EmitterRestartedSubject         string        `yaml:"emitter_restarted_subject" default:"exesdb.emitter.restarted" check:"subject" doc:"subject of emitter restarts"`
	EnableRegistrationVerification  bool          `yaml:"enable_registration_verification" default:"true" doc:"read each registration back"`
	VerificationTimeout             time.Duration `yaml:"verification_timeout" default:"2s" range:"10ms..1m" doc:"how long a write may take to be acknowledged, and then to be read back"`
}

// Status says what is published how often.
type Status struct {
	HeartbeatInterval time.Duration `yaml:"heartbeat_interval" default:"30s" range:"1s..1h" doc:"each status is repeated this often, spread over the time"`
	SummaryInterval   time.Duration `yaml:"summary_interval" default:"5s" range:"100ms..1h" doc:"each store's summary is published this often"`
}

// Bridge says which streams' leader elections are cluster events.
type Bridge struct {
	Registry bool           `yaml:"registry" default:"true" doc:"the registry bucket's own stream: register everything anew when it has a new leader"`
	Streams  []BridgeStream `yaml:"streams" doc:"further streams"`
}

// BridgeStream is a stream whose leader elections are cluster events of a store.
type BridgeStream struct {
	Stream string `yaml:"stream" check:"required" doc:"stream name"`
	Store  string `yaml:"store" check:"required" doc:"id of one of stores"`
	Event  string `yaml:"event" default:"leader_changed" enum:"leader_changed|emitter_restarted" doc:"what an election means"`
}

// HTTP is the HTTP server.
type HTTP struct {
	Addr  string `yaml:"addr" check:"addr" doc:"host:port of /metrics, /healthz, /readyz and /api/v1/status; empty: off"`
	PProf bool   `yaml:"pprof" default:"false" doc:"serve /debug/pprof as well"`
}

// Metrics tunes the Prometheus metrics.
type Metrics struct {
	SubscriptionLabelLimit int `yaml:"subscription_label_limit" default:"1000" range:"0..100000" doc:"above this number of subscriptions none has metrics of its own"`
}

// Log tunes the log.
type Log struct {
	Level  string `yaml:"level" default:"info" enum:"debug|info|warn|error" doc:"least level"`
	Format string `yaml:"format" default:"auto" enum:"auto|text|json" doc:"auto is text on a terminal, else JSON"`
}

// Store is an event store with its subscriptions.
type Store struct {
	ID            string         `yaml:"id" check:"required" doc:"the store's id; no two stores share one"`
	Defaults      Defaults       `yaml:"defaults" doc:"for what a subscription leaves out"`
	Subscriptions []Subscription `yaml:"subscriptions" doc:"its subscriptions"`
}

// Defaults are a store's defaults for what its subscriptions leave out.
type Defaults struct {
	Type         string   `yaml:"type" enum:"by_stream|by_event_type|by_event_pattern|by_event_payload" doc:"as a subscription's"`
	Selector     string   `yaml:"selector" doc:"as a subscription's"`
	StartVersion int64    `yaml:"start_version" default:"0" range:"-1..9223372036854775807" doc:"as a subscription's"`
	Forward      *Forward `yaml:"forward" doc:"as a subscription's"`
}

// Subscription is one subscription of a store. Its defaults are the store's.
type Subscription struct {
	Name         string   `yaml:"name" check:"required" doc:"unique within the store"`
	Type         string   `yaml:"type" enum:"by_stream|by_event_type|by_event_pattern|by_event_payload" doc:"what the selector picks by"`
	Selector     string   `yaml:"selector" doc:"a stream id or $all, an event type, or a JSON object that the event's attributes or data contain"`
	StartVersion int64    `yaml:"start_version" default:"0" range:"-1..9223372036854775807" doc:"where to begin: 0 the first event, -1 new ones only, n the store's sequence n"`
	Forward      *Forward `yaml:"forward" doc:"where its events go; checked now, used once delivery is built"`
}

// Forward says where a subscription's events go.
type Forward struct {
	Sink       string        `yaml:"sink" default:"publish" enum:"publish|request|stream" doc:"how they are handed over"`
	Subject    string        `yaml:"subject" check:"required,subject" doc:"subject they are handed over on"`
	Timeout    time.Duration `yaml:"timeout" default:"5s" range:"10ms..10m" doc:"sink request: how long a reply may take"`
	MaxDeliver int           `yaml:"max_deliver" default:"5" range:"1..1000" doc:"refusals after which an event is parked"`
}
