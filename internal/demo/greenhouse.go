package demo

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/sink"
	types "github.com/exesdb/subproxy/pkg/subscription"
)

// Names in the demo's NATS.
const (
	sinkStream   = "DEMO_SINK"
	sinkSubjects = "demo.stream." // <store>.<name>, of sinks of kind stream
	appSubjects  = "demo.app."    // <store>.<name>, of the others
)

// subscription is one of a store's, and what is known of the events that it picks.
type subscription struct {
	instance int // which of the set's instances holds it
	name     string
	typ      types.Type
	selector string
	sink     sink.Kind
	every    int // of so many events in a row it wants at least one
	wants    func(kind int) bool
}

// kinds is how many kinds of event there are. They follow each other, so that each subscription's come at a
// steady rate.
const kinds = 20

// mostApart is how far apart the events of the subscription are that wants the fewest.
const mostApart = 10

const (
	initialized = "greenhouse_initialized:v1"
	measured    = "temperature_measured:v1"
)

func isInitialized(kind int) bool { return kind%4 == 0 }
func inThird(kind int) bool       { return kind%5 == 2 }
func ofNorth(kind int) bool       { return kind%2 == 0 }
func isFrost(kind int) bool       { return kind%10 == 7 }

// greenhouse is every type and every sink.
func greenhouse() []subscription {
	all := func(int) bool { return true }
	return []subscription{
		{instance: 0, name: "audit", typ: types.ByStream, selector: "$all", sink: sink.Stream, every: 1, wants: all},
		{instance: 0, name: "to_pubsub", typ: types.ByEventType, selector: initialized, sink: sink.Publish, every: 4, wants: isInitialized},
		{instance: 0, name: "dashboard", typ: types.ByEventType, selector: measured, sink: sink.Request, every: 2, wants: func(kind int) bool { return !isInitialized(kind) }},
		{instance: 1, name: "search", typ: types.ByStream, selector: "$all", sink: sink.Request, every: 1, wants: all},
		{instance: 1, name: "greenhouse_3", typ: types.ByStream, selector: "greenhouse-3", sink: sink.Publish, every: 5, wants: inThird},
		{instance: 1, name: "north", typ: types.ByEventPattern, selector: `{"tenant":"north"}`, sink: sink.Stream, every: 2, wants: ofNorth},
		{instance: 1, name: "frost_alarm", typ: types.ByEventPayload, selector: `{"alarm":"frost"}`, sink: sink.Request, every: mostApart, wants: isFrost},
	}
}

// newEvent is the n-th event of a store.
func newEvent(store string, n int) (e *event.Event, kind int) {
	kind = n % kinds
	e = &event.Event{
		Store: store, Stream: fmt.Sprintf("greenhouse-%d", kind%5+1), Type: measured, ID: nuid.Next(), Source: "subproxy demo", Time: time.Now(),
		Header: nats.Header{event.ContentTypeHeader: {"application/json"}, "ce-tenant": {"south"}},
		Data:   fmt.Appendf(nil, `{"n":%d,"celsius":%d}`, n, 12+kind),
	}
	if isInitialized(kind) {
		e.Type = initialized
	}
	if ofNorth(kind) {
		e.Header["ce-tenant"] = []string{"north"}
	}
	if isFrost(kind) {
		e.Data = fmt.Appendf(nil, `{"n":%d,"celsius":-3,"alarm":"frost"}`, n)
	}
	return e, kind
}

func (s *subscription) key(store string) string {
	full := types.Subscription{Store: store, Type: s.typ, Selector: s.selector, Name: s.name}
	return full.Key()
}

// subject is where the subscription's events go.
func (s *subscription) subject(store string) string {
	prefix := appSubjects
	if s.sink == sink.Stream {
		prefix = sinkSubjects
	}
	return prefix + types.EncodeToken(store) + "." + types.EncodeToken(s.name)
}

// configuration is the file of one process: of an emitter, or of the instance that holds those
// subscriptions.
func configuration(urls, name, store string, timerOnly bool, held []subscription) string {
	var b strings.Builder
	fmt.Fprintf(&b, "nats: {url: %q}\ninstance: {name: %s}\nregistry: {replicas: %d}\n", urls, name, nodes)
	if timerOnly {
		fmt.Fprintf(&b, "subscription_proxy: {enable_cluster_event_subscriptions: false, normal_reregister_interval: %s}\n", timer)
	}
	fmt.Fprintf(&b, "stores:\n  - id: %s\n    stream: {replicas: %d}\n", store, nodes)
	if len(held) > 0 {
		b.WriteString("    subscriptions:\n")
	}
	for _, s := range held {
		fmt.Fprintf(&b, "      - {name: %s, type: %s, selector: %s, forward: {sink: %s, subject: %s, timeout: 1s}}\n",
			s.name, s.typ, strconv.Quote(s.selector), s.sink, s.subject(store))
	}
	return b.String()
}
