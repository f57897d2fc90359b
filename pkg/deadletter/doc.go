// Package deadletter keeps the events that a subscription's sink refused too often: they are parked, with
// the reason, in the stream EXESDB_PARKED, and the subscription goes on with the next event.
//
// A Store parks, lists, reads, replays and drops. An event is parked once, whoever parks it and however
// long ago it was parked first, and stays until somebody replays or drops it. An event that is too large
// for the stream is parked in part and marked so. A stream that would lose parked events or hide them is
// refused, with the command that mends it.
//
// When an event is refused too often is not decided here but by the proxies (pkg/proxy), and what accepts a
// replayed event is a sink (pkg/sink) or any other function. Subjects and headers are a contract;
// subjects.md is its published form.
package deadletter
