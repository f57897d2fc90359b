// Package link knows the way that a connection takes to its server: how long a round trip takes, and how
// much may be under way. It is measured by what is asked anyway.
//
// An Estimator is a value that estimates the round trip as TCP does for its retransmission timer (RFC 6298).
// A Budget is a value that says how many bytes may be under way, so that they fill the link and none of them
// waits for long. A Link is both for one connection, safe for concurrent use: all who ask over a connection
// share it, wherever they are in the program.
//
// It promises that no time-out is below the round trip that was measured, and that what is asked for with a
// grant of the budget is never more than the link carries in a second or so, or one message. What a time-out
// means, and what to ask for, is left to who asks.
package link
