//go:build unix

package harness

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Names of the contract, and how long tests wait.
const (
	Bucket           = "exesdb_subscriptions"
	BucketStream     = "KV_exesdb_subscriptions"
	LeaderChanged    = "exesdb.cluster.leader_changed"
	EmitterRestarted = "exesdb.emitter.restarted"

	// Patience is how long a condition is waited for. Nothing here should take a second; a busy machine
	// may.
	Patience = 40 * time.Second
	// Never is a timer's interval in a test in which something else has to act first.
	Never = 5 * time.Hour
)

// What the outside reads. The types are the contract's, and on purpose not the product's.
type (
	Owner struct {
		Name string `json:"name"`
		ID   string `json:"id"`
	}
	Record struct {
		Store          string    `json:"store"`
		Type           string    `json:"type"`
		Selector       string    `json:"selector"`
		Name           string    `json:"name"`
		StartVersion   int64     `json:"start_version"`
		Owner          Owner     `json:"owner"`
		Incarnation    uint64    `json:"incarnation"`
		DeliverSubject string    `json:"deliver_subject"`
		Term           uint64    `json:"term"`
		Cause          string    `json:"cause"`
		RegisteredAt   time.Time `json:"registered_at"`

		Revision uint64
	}
	Status struct {
		Store        string     `json:"store"`
		Name         string     `json:"name"`
		Type         string     `json:"subscription_type"`
		Selector     string     `json:"selector"`
		Health       string     `json:"health"`
		Breaker      string     `json:"breaker"`
		Registered   bool       `json:"registered"`
		Verified     bool       `json:"verified"`
		Verification string     `json:"verification"`
		Failures     int        `json:"consecutive_failures"`
		LastCause    string     `json:"last_cause"`
		LastError    string     `json:"last_error"`
		Revision     uint64     `json:"revision"`
		Incarnation  uint64     `json:"incarnation"`
		Owner        Owner      `json:"owner"`
		ReportedBy   Owner      `json:"reported_by"`
		SinkState    string     `json:"sink_state"`
		Gap          *struct{}  `json:"gap"` // null: nothing was lost
		Lag          *uint64    `json:"lag"`
		LastSuccess  *time.Time `json:"last_successful_registration"`
	}
	Alert struct {
		Level         string `json:"level"`
		Scope         string `json:"scope"`
		Store         string `json:"store"`
		Name          string `json:"name"`
		Health        string `json:"health"`
		Affected      int    `json:"affected"`
		Subscriptions int    `json:"subscriptions"`
		LastError     string `json:"last_error"`
	}
	Responder struct {
		Owner
		Superseded bool `json:"superseded"`
	}
	Answer struct {
		Type     string    `json:"type"`
		Instance Responder `json:"instance"`
		Part     int       `json:"part"`
		Parts    int       `json:"parts"`
		Affected int       `json:"affected"`
		Verified int       `json:"verified"`
		Proxies  []Status  `json:"proxies"`

		Code, Refusal string
	}
)

// After is a record that was written after a revision, for a cause.
func After(revision uint64, cause string) func(Record) bool {
	return func(r Record) bool { return r.Revision > revision && r.Cause == cause }
}

// VerifiedAt is a subscription that is healthy, and verified at a revision or above.
func VerifiedAt(revision uint64) func(Status) bool {
	return func(s Status) bool {
		return s.Verified && s.Registered && s.Revision >= revision && s.Health == "healthy"
	}
}

// Write is one revision of the bucket, as the republished message told it.
type Write struct {
	Key      string
	Revision uint64
	Removed  bool
	Record   Record // zero for what is no record
}

// Decode decodes JSON; what is none fails the test.
func Decode[T any](t testing.TB, data []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Errorf("not JSON: %v: %s", err, data)
	}
	return v
}

// Token is the contract's rule for names in subjects and keys.
func Token(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		if c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}
