package control

import (
	"errors"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// The control protocol: a NATS micro service with an endpoint a verb.
const (
	ServiceName = "subproxy"
	Prefix      = "exesdb.proxy.control." // <verb>
)

// Verb is a control request's verb.
type Verb string

// The verbs.
const (
	List       Verb = "list"       // which subscriptions an instance has; every instance answers
	GetStatus  Verb = "status"     // their statuses; every instance answers
	Restart    Verb = "restart"    // one proxy anew, with a new incarnation; the instance that holds it answers
	Reregister Verb = "reregister" // now; the instances that hold any of them answer
	Drain      Verb = "drain"      // an instance is to hold nothing, or is to again; the instance itself answers
	ResetTerm  Verb = "reset_term" // a store's count of terms begins again; the instances that have the store answer
)

// Codes and descriptions of the micro error headers.
const (
	CodeBadRequest   = "400"
	CodeNotFound     = "404"
	CodeUnavailable  = "503" // the registry could not be read, or the instance stops
	ProxyNotFound    = "proxy_not_found"
	BadRequest       = "bad_request"
	TemporaryFailure = "unavailable"
)

// Types of the answers, in the manner of JetStream's advisories.
const (
	StatusAnswerType = "io.exesdb.proxy.v1.status_response"
	ListAnswerType   = "io.exesdb.proxy.v1.list_response"
	ActionAnswerType = "io.exesdb.proxy.v1.action_response"
	DrainAnswerType  = "io.exesdb.proxy.v1.drain_response"

	ResetTermAnswerType = "io.exesdb.proxy.v1.reset_term_response"
)

// ErrNoInstance is returned where no running instance has the name.
var ErrNoInstance = errors.New("no running instance has that name")

// ErrProxyNotFound is the client's side of ProxyNotFound.
var ErrProxyNotFound = errors.New(ProxyNotFound)

// Request is the body of every other control request. Store and Name narrow it; empty means all, which
// restart refuses.
type Request struct {
	Store string `json:"store,omitempty"`
	Name  string `json:"name,omitempty"`
	// Held leaves out of status and list what the instance has nothing to do with but to stand by, while
	// another holds it.
	Held bool `json:"held,omitempty"`
}

// DrainRequest is the body of drain.
type DrainRequest struct {
	Instance string `json:"instance"` // its name
	Undo     bool   `json:"undo,omitempty"`
}

// DrainAnswer answers drain, once the others can see it in the instance's session. What it holds moves
// after that.
type DrainAnswer struct {
	status.Envelope
	Instance Instance `json:"instance"`
	Draining bool     `json:"draining"`
}

// ResetTermRequest is the body of reset_term.
type ResetTermRequest struct {
	Store string `json:"store"`
	Term  uint64 `json:"term,omitempty"` // the term of the leader that there is; 0: not known
}

// ResetTermAnswer answers reset_term, once the proxies that the instance holds are restarted.
type ResetTermAnswer struct {
	status.Envelope
	Instance Instance `json:"instance"`
	Store    string   `json:"store"`
	Before   uint64   `json:"before"` // the highest term known until then
	Term     uint64   `json:"term"`
	Affected int      `json:"affected"` // proxies that were restarted
	Verified int      `json:"verified"` // of these, registered and verified since
}

// StatusAnswer is one message of an instance's answer to status. An answer of more than one message counts
// its parts.
type StatusAnswer struct {
	status.Envelope
	Instance Instance        `json:"instance"`
	Part     int             `json:"part"` // from 1
	Parts    int             `json:"parts"`
	Proxies  []status.Status `json:"proxies"`
}

// ListAnswer is one message of an instance's answer to list.
type ListAnswer struct {
	status.Envelope
	Instance Instance `json:"instance"`
	Part     int      `json:"part"` // from 1
	Parts    int      `json:"parts"`
	Proxies  []Listed `json:"proxies"`
}

// Listed is a subscription in a ListAnswer.
type Listed struct {
	Store            string            `json:"store"`
	Name             string            `json:"name"`
	SubscriptionType subscription.Type `json:"subscription_type"`
	Selector         string            `json:"selector"`
	Health           breaker.Health    `json:"health"`
}

// ActionAnswer answers restart and reregister, once the attempts that they cause have ended.
type ActionAnswer struct {
	status.Envelope
	Instance Instance        `json:"instance"`
	Affected int             `json:"affected"` // proxies that the request named here
	Verified int             `json:"verified"` // of these, registered and verified since
	Proxies  []status.Status `json:"proxies"`  // the first few of them
}

// Instance describes who answers.
type Instance struct {
	registration.Owner
	Version    string `json:"version"`
	Superseded bool   `json:"superseded"` // another run of the same name took over; this one never writes again
}
