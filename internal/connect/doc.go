// Package connect is the one place where the service and the client commands connect to NATS: where to and
// as whom, what every connection has in common, and what an error means for whoever has to mend it.
//
// It promises that a connection, once made, is kept for ever: it is looked for again until it is closed.
// And that an error names the setting to change, as it is called in the configuration and on the command
// line.
//
// A server that is not there yet, or that is lost, is looked for by a search, which tries configured servers
// before those that others advertise, and backs off where log-ins are refused.
package connect
