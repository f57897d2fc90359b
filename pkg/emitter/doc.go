// Package emitter is the store's side for stores that are JetStream streams. An Emitter contends for the
// leadership of its stores and, while it leads one, sends the store's events to whoever holds the
// subscriptions, from where each has acknowledged. Beside it are the stream that holds a store's events,
// appending to it, and the emitter's half of the hand-off protocol (Sender; the proxy's is
// delivery.Receiver), as a plain value that a property test drives against the other half.
//
// It promises that a subscription's events are sent in order and again until they are acknowledged, and
// that a slow subscription holds up no other. It leaves to the proxies to drop what comes twice and to
// refuse a leader that is deposed.
//
// A leader is one loop (leader.turn has the list of what it does) around plain values, each with a property
// test: catchUp, sessions, checkpoints, outlet and Sender. They start no goroutine, and what time it is
// they are told.
package emitter
