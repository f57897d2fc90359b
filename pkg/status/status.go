package status

import (
	"time"

	"github.com/nats-io/nuid"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Message types, in the manner of JetStream's advisories.
const (
	StatusType     = "io.exesdb.proxy.v1.status"
	AlertType      = "io.exesdb.proxy.v1.alert"
	SummaryType    = "io.exesdb.proxy.v1.summary"
	HandOverType   = "io.exesdb.proxy.v1.handover"
	HandedOverType = "io.exesdb.proxy.v1.handed_over"
	SupersededType = "io.exesdb.proxy.v1.superseded"
)

// Subject prefixes. A store or subscription name follows as one token (subscription.EncodeToken).
const (
	StatusPrefix  = "exesdb.proxy.status."  // <store>.<name>
	AlertPrefix   = "exesdb.proxy.alert."   // <store>.<name>, or <store> alone for all of it together
	SummaryPrefix = "exesdb.proxy.summary." // <store>
	// HandOverPrefix begins the subject on which an instance is asked for subscriptions, and told that it
	// has them; its id follows.
	HandOverPrefix = "exesdb.proxy.handover."
	// SupersededPrefix begins the subject on which a run says that another run of its instance's name took
	// over; the name follows.
	SupersededPrefix = "exesdb.proxy.superseded."
)

// Envelope is what every message sent begins with.
type Envelope struct {
	Type      string    `json:"type"`
	ID        string    `json:"id"`        // NUID, new for every message
	Timestamp time.Time `json:"timestamp"` // RFC 3339, UTC
}

// NewEnvelope makes the envelope of one message.
func NewEnvelope(messageType string, now time.Time) Envelope {
	return Envelope{Type: messageType, ID: nuid.Next(), Timestamp: now.UTC()}
}

// Status is one proxy's health. Times that have not been yet are null.
type Status struct {
	Envelope
	Store               string             `json:"store"`
	Name                string             `json:"name"`
	SubscriptionType    subscription.Type  `json:"subscription_type"`
	Selector            string             `json:"selector"`
	Health              breaker.Health     `json:"health"`
	Breaker             breaker.State      `json:"breaker"`
	Registered          bool               `json:"registered"`           // the bucket acknowledged a record that names this instance, and nothing newer was heard
	Verified            bool               `json:"verified"`             // that record was read back
	Verification        string             `json:"verification"`         // on, or off where enable_registration_verification is false
	ConsecutiveFailures int                `json:"consecutive_failures"` // attempts failed in a row
	LastSuccess         *time.Time         `json:"last_successful_registration"`
	LastCause           registration.Cause `json:"last_cause"`
	LastError           string             `json:"last_error"` // of the last attempt; after a success why events don't come or are not taken; empty: nothing is wrong
	LatencyMS           float64            `json:"latency_ms"` // of the last success, from the cause seen to verified, in milliseconds
	Revision            uint64             `json:"revision"`   // of the record in the bucket
	Incarnation         uint64             `json:"incarnation"`
	Owner               registration.Owner `json:"owner"`       // who holds the subscription; in standby that is another instance
	HeldSince           *time.Time         `json:"held_since"`  // when the instance that reports began to hold it; null: it does not
	Moving              Moving             `json:"moving"`      // how the subscription is on its way from or to the instance that reports
	ReportedBy          registration.Owner `json:"reported_by"` // the instance whose proxy this is
	NextAttemptAt       *time.Time         `json:"next_attempt_at"`
	Lag                 *uint64            `json:"lag"`             // events of the store not yet delivered; null: that is not known
	Gap                 *event.Gap         `json:"gap"`             // what it lost in the last hour, or holds at; null: nothing
	PassedOver          *event.PassedOver  `json:"passed_over"`     // messages of the store's stream in the last hour that are no events; null: none
	Stalled             bool               `json:"stalled"`         // it is behind, and no event was accepted for status.stalled_after
	LastSeq             uint64             `json:"last_seq"`        // store sequence that the sink accepted last, in this start of the proxy
	Sink                string             `json:"sink"`            // publish, request, stream or handler; empty before the first event
	SinkState           SinkState          `json:"sink_state"`      // empty where no events are received
	Delivered           uint64             `json:"delivered"`       // events that the sink accepted, or that were parked, in this start
	DeliveryErrors      uint64             `json:"delivery_errors"` // attempts to deliver that failed, in this start
	Parked              uint64             `json:"parked"`          // events parked, in this start
}

// InPlace reports whether the registration is there: verified, or acknowledged where nothing is read back.
func (s *Status) InPlace() bool { return s.Verified || s.Registered && s.Verification == "off" }

// Moving says how a subscription is on its way from one instance to another.
type Moving string

// The ways. Empty where it stays where it is.
const (
	Releasing Moving = "releasing" // its sink finishes what it has in hand, and its record is deleted
	Asking    Moving = "asking"    // it suits this instance better than its holder, which is asked for it
	Waiting   Moving = "waiting"   // it is not held; this instance claims it when its turn comes, at next_attempt_at
	Claiming  Moving = "claiming"  // this instance registers it, because nobody held it
)

// SinkState says how a sink is.
type SinkState string

// The states of a sink.
const (
	SinkIdle     SinkState = "idle"     // it had no event yet
	SinkTaking   SinkState = "taking"   // it takes events
	SinkRefusing SinkState = "refusing" // it refuses an event, or nobody is there to take it; it is tried again
)

// Level is an alert's level.
type Level string

// The levels.
const (
	Warning  Level = "warning"  // entered degraded
	Critical Level = "critical" // entered failed
	Resolved Level = "resolved" // healthy again
)

// Alert says that a proxy, or most of a store's proxies together, changed for worse, or back.
type Alert struct {
	Envelope
	Level               Level              `json:"level"`
	Scope               string             `json:"scope"` // proxy, or store where most of its proxies fail together
	Store               string             `json:"store"`
	Name                string             `json:"name,omitempty"` // of the subscription; absent in scope store
	Health              breaker.Health     `json:"health"`
	Affected            int                `json:"affected"`      // subscriptions that this alert stands for
	Subscriptions       int                `json:"subscriptions"` // of the store, in this instance
	ConsecutiveFailures int                `json:"consecutive_failures"`
	Message             string             `json:"message"`
	LastError           string             `json:"last_error"`
	Owner               registration.Owner `json:"owner"` // the instance that raises it
}

// Counts are numbers of proxies by health.
type Counts struct {
	Healthy  int `json:"healthy"`
	Degraded int `json:"degraded"`
	Failed   int `json:"failed"`
	Standby  int `json:"standby"`
	Unknown  int `json:"unknown"`
}

// Add changes the count of a health by n.
func (c *Counts) Add(h breaker.Health, n int) { *c.of(h) += n }

// Count is the count of a health.
func (c *Counts) Count(h breaker.Health) int { return *c.of(h) }

func (c *Counts) of(h breaker.Health) *int {
	switch h {
	case breaker.Healthy:
		return &c.Healthy
	case breaker.Degraded:
		return &c.Degraded
	case breaker.Failed:
		return &c.Failed
	case breaker.Standby:
		return &c.Standby
	default:
		return &c.Unknown
	}
}

// Breakers are numbers of circuit breakers by state.
type Breakers struct {
	Closed   int `json:"closed"`
	HalfOpen int `json:"half-open"`
	Open     int `json:"open"`
}

// Summary is one store's proxies in one instance, counted.
type Summary struct {
	Envelope
	Store         string             `json:"store"`
	Owner         registration.Owner `json:"owner"` // the instance that counts
	Subscriptions int                `json:"subscriptions"`
	Counts
	Breakers   Breakers          `json:"breakers"`
	Registered int               `json:"registered"`
	Verified   int               `json:"verified"`
	Refusing   int               `json:"refusing"`    // proxies whose sink takes no events
	Moving     int               `json:"moving"`      // proxies on their way from or to this instance
	Behind     int               `json:"behind"`      // proxies that have not delivered everything, as the store's emitter tells
	Stalled    int               `json:"stalled"`     // of these, proxies of which no event was accepted for status.stalled_after
	Lag        *uint64           `json:"lag"`         // events of the store that the one furthest behind has not delivered; null: not known
	Trouble    string            `json:"trouble"`     // why nobody here gets events of the store; empty: nothing is in the way
	PassedOver *event.PassedOver `json:"passed_over"` // messages of the store's stream in the last hour that are no events; null: none
	ProgressAt *time.Time        `json:"progress_at"` // when the store's emitter last told how far it is; null: never, in this run of the instance
	Term       uint64            `json:"term"`        // highest leader term heard of; 0: none
	Leader     string            `json:"leader"`      // the leader of that term, where it was named
}

// HandOver asks an instance for subscriptions. What it gives it says in HandedOver, or releases.
type HandOver struct {
	Envelope
	Store string             `json:"store"`
	Names []string           `json:"names"`
	To    registration.Owner `json:"to"`
}

// HandedOver gives subscriptions to an instance that asked for them. Their records stand, but whoever wrote
// them delivers nothing by them any more: the one that asked writes over each at its revision. It should do
// so at once; what it does not take is released.
type HandedOver struct {
	Envelope
	Store         string             `json:"store"`
	Subscriptions []Handed           `json:"subscriptions"`
	From          registration.Owner `json:"from"`
}

// Handed is one subscription that is handed over.
type Handed struct {
	Name        string `json:"name"`
	Revision    uint64 `json:"revision"`    // of its record
	Incarnation uint64 `json:"incarnation"` // of its record, at least; whoever takes it is a later one
	registration.Position
}

// HandOverSubject is the subject on which the instance of that id is asked for subscriptions, and given
// them.
func HandOverSubject(id string) string { return HandOverPrefix + id }

// Superseded is what a run says when it finds that another has its instance's name. It comes from a process
// that lives: one of the two is there by mistake, unless it was stopped for a while and replaced.
type Superseded struct {
	Envelope
	Owner registration.Owner `json:"owner"` // the run that was superseded
	By    registration.Owner `json:"by"`
}

// SupersededSubject is the subject for the instance of that name.
func SupersededSubject(name string) string { return SupersededPrefix + subscription.EncodeToken(name) }

// StatusSubject is the subject of a proxy's status.
func StatusSubject(store, name string) string {
	return StatusPrefix + subscription.EncodeToken(store) + "." + subscription.EncodeToken(name)
}

// AlertSubject is the subject of an alert; name is empty for one about the whole store.
func AlertSubject(store, name string) string {
	if name == "" {
		return AlertPrefix + subscription.EncodeToken(store)
	}
	return AlertPrefix + subscription.EncodeToken(store) + "." + subscription.EncodeToken(name)
}

// SummarySubject is the subject of a store's summary.
func SummarySubject(store string) string {
	return SummaryPrefix + subscription.EncodeToken(store)
}
