// Package connect is the one place where the service and the client commands connect to NATS: where to and
// as whom, what every connection has in common, and what an error means for whoever has to mend it.
//
// It promises that a connection, once made, is kept for ever: it is looked for again until it is closed.
// And that an error names the setting to change, as it is called in the configuration and on the command
// line.
//
// When to try again after a first connection failed is left to the caller.
package connect
