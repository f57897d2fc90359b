// Package sink is where a proxy forwards a subscription's events: a core NATS subject (publish), a
// subscriber that replies (request), a JetStream stream (stream) or a Go function (HandlerFunc).
//
// It promises that Deliver returns nil only for an event that was taken, that a *RefusedError says the
// event itself is at fault, and any other error that nobody could take it now.
//
// It leaves to the caller the order of events, retries and their pace, the count of refusals and the
// decision to park (Park and Replay go between an event and pkg/deadletter), and the removal of headers
// that are not the event's own: those of the hand-off, and those that JetStream added (Nats-…).
package sink
