// Package event says what an event of a store is, and how it stands in a NATS message: CloudEvents as their
// NATS binding has them. Both content modes are read; what is written is the binary one, attributes as ce-
// headers, percent-encoded, data as it is.
//
// A store's stream has subjects exesdb.events.<store>.<stream id>.<event type>, each name one token. Where
// headers are missing, the subject tells. It knows subscriptions' tokens and no connection.
package event
