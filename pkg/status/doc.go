// Package status is what is told of proxies: their statuses, alerts, summaries and counts, and what
// instances tell each other when a subscription moves.
//
// It promises that subjects and payloads are those of subjects.md, and that Size is never below what a
// message has in bytes. The standing alert of the cluster bucket is here too.
//
// What the messages say is decided elsewhere: pkg/breaker turns failures into health, and the loops of
// pkg/proxy build and publish the messages. What an operator asks, and how it is answered, is pkg/control.
package status
