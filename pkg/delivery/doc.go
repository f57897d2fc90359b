// Package delivery holds the endpoints of an instance: each receives the events of one subscription on a
// deliver subject of its own, in order, forwards them to the subscription's sink, and acknowledges what
// that accepted.
//
// It promises: an event is forwarded only after the one before it, and none twice in one history of the
// store, whichever emitters send (Receiver, Fence); nothing is acknowledged that the sink has not accepted,
// or that is not parked; the events that wait for their sinks are bounded in bytes; and of two endpoints of
// a subscription the later one forwards nothing while the earlier one has an event in hand.
//
// It knows neither proxies nor registrations. Who holds a subscription opens and closes its endpoint
// (Endpoints, Start), and is told what the endpoint finds out (Holder).
package delivery
