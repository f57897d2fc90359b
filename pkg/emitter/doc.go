// Package emitter is the store's side for stores that are JetStream streams: the stream that holds a store's events,
// appending to it, and the emitter's half of the hand-off protocol (Sender; the proxy's is proxy.Receiver), as a plain
// value that a property test drives against the other half.
package emitter
