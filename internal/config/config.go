package config

import "time"

// Config is the whole configuration. The fields' tags say the rest: default, min, max and oneof are as
// written in the file, format is one of formats, required refuses an empty value, and doc and example are
// for WriteDefaults.
type Config struct {
	NATS              NATS              `yaml:"nats" doc:"How to reach the NATS cluster."`
	Instance          Instance          `yaml:"instance" doc:"This run of the process, as others see it."`
	Registry          Registry          `yaml:"registry" doc:"The bucket that holds the registrations. Created if it is absent, checked if it is there."`
	SubscriptionProxy SubscriptionProxy `yaml:"subscription_proxy" doc:"When and how often each proxy registers again."`
	Status            Status            `yaml:"status" doc:"What proxies and the instance report of themselves."`
	Delivery          Delivery          `yaml:"delivery" doc:"How the instance receives and forwards events."`
	Emitter           Emitter           `yaml:"emitter" doc:"Sends the events of stores that are JetStream streams to whoever holds their subscriptions."`
	Parked            Parked            `yaml:"parked" doc:"The stream of parked events, EXESDB_PARKED. Created when the first event is parked, if it is absent."`
	Bridge            Bridge            `yaml:"bridge" doc:"Which of JetStream's own leader elections count as cluster events."`
	HTTP              HTTP              `yaml:"http" doc:"The HTTP server: /metrics, /healthz, /readyz, /api/v1/status."`
	Metrics           Metrics           `yaml:"metrics" doc:"What /metrics shows."`
	Log               Log               `yaml:"log" doc:"What is written to standard error."`
	Stores            []Store           `yaml:"stores" doc:"The event stores and their subscriptions. At least one store; without an emitter at least one subscription."`
}

// NATS says where to connect and as whom. With a Context, URL is empty unless it was given.
type NATS struct {
	URL         string `yaml:"url" default:"nats://127.0.0.1:4222" format:"servers" doc:"One or more server URLs, comma-separated."`
	Context     string `yaml:"context" doc:"A context of the nats CLI. Excludes url and credentials."`
	Credentials string `yaml:"credentials" format:"file" doc:"A .creds file."`
	User        string `yaml:"user" doc:"A user name. Of credentials, user, token, nkey and user_jwt at most one is given."`
	Password    string `yaml:"password" doc:"The user's. Better in the environment, SUBPROXY_NATS_PASSWORD, than in a file."`
	Token       string `yaml:"token" doc:"A token in place of a user. Better in the environment, SUBPROXY_NATS_TOKEN."`
	NKey        string `yaml:"nkey" format:"file" doc:"A file with the seed of a user's nkey."`
	UserJWT     string `yaml:"user_jwt" format:"file" doc:"A file with a user's JWT. Goes with user_seed."`
	UserSeed    string `yaml:"user_seed" format:"file" doc:"A file with the seed of the nkey in user_jwt. Goes with user_jwt."`
	TLS         TLS    `yaml:"tls" doc:"Beyond what a tls:// URL brings by itself."`

	ConnectTimeout time.Duration `yaml:"connect_timeout" default:"30s" min:"1s" max:"1h" doc:"How long the start waits for NATS and JetStream. What waiting can't mend, with any of the servers, ends it at once."`
	Domain         string        `yaml:"domain" format:"token" doc:"The JetStream domain that holds the buckets and streams. Empty: the context's, or that of the server. Excludes api_prefix."`
	APIPrefix      string        `yaml:"api_prefix" format:"subject" doc:"Where an imported JetStream answers, in place of $JS.API: writes to buckets go to <api_prefix>.$KV.>, which must be imported too. Empty: the context's. Excludes domain."`
	InboxPrefix    string        `yaml:"inbox_prefix" format:"subject" doc:"What the subjects of answers begin with, in place of _INBOX. Empty: the context's."`
}

// TLS names PEM files. Cert and Key go together.
type TLS struct {
	CA             string `yaml:"ca" format:"file" doc:"A PEM file with the authorities to trust. Empty: the host's."`
	Cert           string `yaml:"cert" format:"file" doc:"A PEM file with the client certificate. Goes with key."`
	Key            string `yaml:"key" format:"file" doc:"A PEM file with the client certificate's key. Goes with cert."`
	HandshakeFirst bool   `yaml:"handshake_first" default:"false" doc:"Do the TLS handshake before the server's first line. The server must have handshake_first too."`
}

// Instance identifies this process over its restarts.
type Instance struct {
	Name       string        `yaml:"name" format:"name" doc:"Stable over restarts, and no other instance's. Empty: the host name."`
	Weight     int           `yaml:"weight" default:"1" min:"1" max:"1000" doc:"Its share of the subscriptions against the other instances'."`
	SessionTTL time.Duration `yaml:"session_ttl" default:"3s" min:"500ms" max:"1h" doc:"An instance that is silent for so long, and a second, is taken to be gone. It renews four times as often."`
}

// Registry is the bucket of registrations.
type Registry struct {
	Bucket   string `yaml:"bucket" default:"exesdb_subscriptions" required:"true" format:"bucket" doc:"Its name."`
	Replicas int    `yaml:"replicas" default:"1" oneof:"1 3 5" doc:"How many servers hold it, if it is created."`
	Storage  string `yaml:"storage" default:"file" oneof:"file memory" doc:"Where they hold it, if it is created."`

	MaxBytes    int64     `yaml:"max_bytes" default:"0" min:"0" max:"1152921504606846976" doc:"Its limit, if it is created; of the bucket of sessions too. 0: none. Some accounts require one. A full bucket refuses registrations."`
	Compression string    `yaml:"compression" default:"none" oneof:"none s2" doc:"How it is compressed, if it is created."`
	Placement   Placement `yaml:"placement" doc:"Which servers hold it, if it is created."`
}

// Placement says which servers may hold what is created.
type Placement struct {
	Cluster string `yaml:"cluster" doc:"The name of their cluster. Empty: any."`
	Tags    string `yaml:"tags" doc:"Server tags that they must have, comma-separated. Empty: any servers."`
}

// Parked is the stream of parked events.
type Parked struct {
	Replicas    int       `yaml:"replicas" default:"0" oneof:"0 1 3 5" doc:"How many servers hold it, if it is created. 0: as many as the registry."`
	Storage     string    `yaml:"storage" default:"registry" oneof:"registry file memory" doc:"Where they hold it, if it is created. registry: as that."`
	MaxBytes    int64     `yaml:"max_bytes" default:"0" min:"0" max:"1152921504606846976" doc:"Its limit, if it is created: one that is full parks nothing. 0: that of the registry."`
	Compression string    `yaml:"compression" default:"registry" oneof:"registry none s2" doc:"How it is compressed, if it is created. registry: as that."`
	Placement   Placement `yaml:"placement" doc:"Which servers hold it, if it is created. Empty: those of the registry."`
}

// SubscriptionProxy is the tuning block. Its names are those it has always had.
type SubscriptionProxy struct {
	InitialReregisterInterval       time.Duration `yaml:"initial_reregister_interval" default:"1s" min:"10ms" max:"1h" doc:"From the first registration to the next, if no event comes before."`
	NormalReregisterInterval        time.Duration `yaml:"normal_reregister_interval" default:"15s" min:"100ms" max:"24h" doc:"From then on, the fallback where nothing is heard; with 10% jitter either way. Both grow with the root of n/1000 where n > 1000 subscriptions are configured."`
	RetryReregisterInterval         time.Duration `yaml:"retry_reregister_interval" default:"3s" min:"10ms" max:"1h" doc:"After a failed attempt, without exponential backoff."`
	MaxConsecutiveFailures          int           `yaml:"max_consecutive_failures" default:"5" min:"1" max:"1000" doc:"From this many failures in a row a proxy is failed and its breaker opens."`
	FailureNotificationThreshold    int           `yaml:"failure_notification_threshold" default:"3" min:"1" max:"1000" doc:"From this many failures in a row a proxy is degraded. Not above max_consecutive_failures."`
	EnableExponentialBackoff        bool          `yaml:"enable_exponential_backoff" default:"true" doc:"After failed attempts wait 1s, 2s, 4s and so on, instead of retry_reregister_interval."`
	MaxBackoffInterval              time.Duration `yaml:"max_backoff_interval" default:"60s" min:"100ms" max:"24h" doc:"The most that exponential backoff waits."`
	EnableClusterEventSubscriptions bool          `yaml:"enable_cluster_event_subscriptions" default:"true" doc:"Register again when the store's leader changes or its emitters restart. Off: by timer only."`
	LeaderChangedSubject            string        `yaml:"leader_changed_subject" default:"exesdb.cluster.leader_changed" required:"true" format:"subject" doc:"Where changes of the leader are heard."`
	EmitterRestartedSubject         string        `yaml:"emitter_restarted_subject" default:"exesdb.emitter.restarted" required:"true" format:"subject" doc:"Where restarts of emitters are heard. Differs from leader_changed_subject."`
	EnableRegistrationVerification  bool          `yaml:"enable_registration_verification" default:"true" doc:"Read each registration back before it counts."`
	VerificationTimeout             time.Duration `yaml:"verification_timeout" default:"2s" min:"10ms" max:"1m" doc:"How long a registration may take to be readable."`
}

// Status says how often health is reported where nothing changes.
type Status struct {
	HeartbeatInterval time.Duration `yaml:"heartbeat_interval" default:"30s" min:"1s" max:"1h" doc:"Each proxy's status is repeated this often, with 10% jitter either way."`
	SummaryInterval   time.Duration `yaml:"summary_interval" default:"5s" min:"100ms" max:"1h" doc:"Each store's summary is sent this often."`

	StalledAfter       time.Duration `yaml:"stalled_after" default:"60s" min:"0s" max:"24h" doc:"A subscription that is behind, and of which no event was accepted for so long, is degraded, with an alert. 0s: never. Else 1s or more."`
	EmitterSilentAfter time.Duration `yaml:"emitter_silent_after" default:"25s" min:"0s" max:"1h" doc:"A store of whose emitter nothing was heard for so long is taken to have none: its subscriptions are degraded, with one alert. 0s: never. Else 1s or more; emitters tell their progress every 10s."`
}

// Delivery bounds what the instance holds.
type Delivery struct {
	Memory int64 `yaml:"memory" default:"268435456" min:"1048576" max:"1099511627776" doc:"The most that events may take which wait in the instance for their sinks, in bytes. Half of it is for subscriptions whose sink failed last. What there is no room for is asked of the emitter again."`
}

// Emitter is what subproxy emitter runs with, and subproxy run where it hosts one.
type Emitter struct {
	Enabled            bool          `yaml:"enabled" default:"false" doc:"Host an emitter in subproxy run, for every store below. subproxy emitter needs no switch."`
	LeaseTTL           time.Duration `yaml:"lease_ttl" default:"3s" min:"500ms" max:"1h" doc:"A leader that is silent for so long is replaced. It renews four times as often."`
	CheckpointInterval time.Duration `yaml:"checkpoint_interval" default:"200ms" min:"10ms" max:"1m" doc:"How often checkpoints are written. What was acknowledged since is sent again after a kill, and dropped by proxies that live."`

	Replicas    int       `yaml:"replicas" default:"0" oneof:"0 1 3 5" doc:"How many servers hold the bucket of checkpoints, if it is created. 0: as many as the registry."`
	Storage     string    `yaml:"storage" default:"registry" oneof:"registry file memory" doc:"Where they hold it, if it is created. registry: as that."`
	MaxBytes    int64     `yaml:"max_bytes" default:"0" min:"0" max:"1152921504606846976" doc:"Its limit, if it is created. 0: that of the registry."`
	Compression string    `yaml:"compression" default:"registry" oneof:"registry none s2" doc:"How it is compressed, if it is created. registry: as that."`
	Placement   Placement `yaml:"placement" doc:"Which servers hold it, if it is created. Empty: those of the registry."`
}

// Bridge says which LEADER_ELECTED advisories stand for cluster events.
type Bridge struct {
	Registry bool           `yaml:"registry" default:"true" doc:"A new leader of the registry bucket's own stream registers everything again."`
	Streams  []BridgeStream `yaml:"streams" doc:"Streams of which a new leader counts as an event of a store."`
}

// BridgeStream turns the elections of one stream into events of one store.
type BridgeStream struct {
	Stream string `yaml:"stream" required:"true" format:"stream" example:"EVENTS" doc:"The stream's name. It needs more than one replica: of a stream with one no server tells of an election."`
	Store  string `yaml:"store" required:"true" example:"greenhouse_tycoon" doc:"The id of one of the stores below."`
	Event  string `yaml:"event" default:"leader_changed" oneof:"leader_changed emitter_restarted" doc:"What the election counts as."`
}

// HTTP is off while Addr is empty.
type HTTP struct {
	Addr  string `yaml:"addr" format:"hostport" doc:"Host and port to listen on, such as 127.0.0.1:8080 or :8080. Empty: off."`
	PProf bool   `yaml:"pprof" default:"false" doc:"Serve /debug/pprof/ there too."`
}

// Metrics bounds what a scrape costs.
type Metrics struct {
	SubscriptionLabelLimit int `yaml:"subscription_label_limit" default:"1000" min:"0" max:"100000" doc:"Above this number of subscriptions no metric has a label per subscription."`
}

// Log is how the process logs.
type Log struct {
	Level  string `yaml:"level" default:"info" oneof:"debug info warn error" doc:"The least that is logged."`
	Format string `yaml:"format" default:"auto" oneof:"auto text json" doc:"auto is text on a terminal and json elsewhere."`
}

// Store is one event store. Its Subscriptions are complete: what they left out is filled from Defaults.
type Store struct {
	ID            string         `yaml:"id" required:"true" format:"name" example:"greenhouse_tycoon" doc:"The store's id. No two stores share one."`
	Stream        StoreStream    `yaml:"stream" doc:"The JetStream stream that holds the store's events, for the emitter."`
	Defaults      Defaults       `yaml:"defaults" doc:"For whatever a subscription of this store leaves out."`
	Subscriptions []Subscription `yaml:"subscriptions" from:"Defaults" doc:"The subscriptions to keep registered."`
}

// StoreStream is a store's stream: ours, or one of the user's own layout.
type StoreStream struct {
	Name            string    `yaml:"name" format:"stream" doc:"Of a stream that is there already. Empty: EXESDB_<store id>, created if it is absent."`
	Replicas        int       `yaml:"replicas" default:"1" oneof:"1 3 5" doc:"How many servers hold it, if it is created."`
	Storage         string    `yaml:"storage" default:"file" oneof:"file memory" doc:"Where they hold it, if it is created."`
	MaxBytes        int64     `yaml:"max_bytes" default:"0" min:"0" max:"1152921504606846976" doc:"Its limit, if it is created: one that is full refuses events. 0: none."`
	Compression     string    `yaml:"compression" default:"none" oneof:"none s2" doc:"How it is compressed, if it is created."`
	Placement       Placement `yaml:"placement" doc:"Which servers hold it, if it is created."`
	StreamToken     int       `yaml:"stream_token" default:"0" min:"0" max:"100" doc:"Which token of its subjects is an event's stream id, from 1. 0: as in exesdb.events.<store>.<stream id>.<event type>."`
	EventTypeToken  int       `yaml:"event_type_token" default:"0" min:"0" max:"100" doc:"Which token of its subjects is an event's type, from 1. 0: as above."`
	StreamHeader    string    `yaml:"stream_header" doc:"Which header has the stream id; goes before the token. ce-subject needs no mention."`
	EventTypeHeader string    `yaml:"event_type_header" doc:"Which header has the event's type; goes before the token. ce-type needs no mention."`
}

// Defaults has the fields of Subscription, under the same names and rules, that a store may set once.
type Defaults struct {
	Type         string   `yaml:"type" default:"by_event_type" oneof:"by_stream by_event_type by_event_pattern by_event_payload" doc:"What the selector picks by."`
	Selector     string   `yaml:"selector" format:"name" doc:"Which events."`
	StartVersion int64    `yaml:"start_version" default:"0" min:"-1" doc:"Where to begin: 0 at the first event, -1 with new ones only, n at sequence n."`
	Forward      *Forward `yaml:"forward" doc:"Where events go. A subscription's own forward overrides it key by key."`
}

// Subscription is one durable intent to receive events.
type Subscription struct {
	Name         string   `yaml:"name" required:"true" format:"name" example:"greenhouse_initialized_to_pubsub_v1" doc:"Unique within the store."`
	Type         string   `yaml:"type" oneof:"by_stream by_event_type by_event_pattern by_event_payload" example:"by_event_type" doc:"What the selector picks by. Default: the store's."`
	Selector     string   `yaml:"selector" required:"true" format:"name" example:"greenhouse_initialized:v1" doc:"A stream id or $all; an event type; a JSON object that an event's attributes or data contain. Default: the store's."`
	StartVersion int64    `yaml:"start_version" min:"-1" doc:"Where to begin: 0 at the first event, -1 with new ones only, n at sequence n. Default: the store's."`
	Forward      *Forward `yaml:"forward" doc:"Where events go. Default, key by key: the store's; without one they are published on exesdb.delivered.<store>.<name>."`
}

// Forward is where a subscription's events go.
type Forward struct {
	Sink       string        `yaml:"sink" default:"publish" oneof:"publish request stream" doc:"By core NATS (publish), again and again until the subscriber replies (request), or into JetStream (stream)."`
	Subject    string        `yaml:"subject" format:"subject" example:"app.events.greenhouse" doc:"Where to. Required where forward is given."`
	Timeout    time.Duration `yaml:"timeout" default:"5s" min:"10ms" max:"10m" doc:"How long request waits for the reply, and stream for the acknowledgement."`
	OnGap      string        `yaml:"on_gap" default:"continue" oneof:"continue pause" doc:"Where a limit of the store's stream, or a purge, removed events before the subscription had them: go on behind them (continue), or hold there until subproxy restart (pause)."`
	MaxDeliver int           `yaml:"max_deliver" default:"5" min:"1" max:"1000" doc:"An event refused this many times is parked. One that nobody answers for is not refused."`
}
