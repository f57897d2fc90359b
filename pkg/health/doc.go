// Package health is what the outside sees of proxies: the status, alert and summary messages on NATS subjects, the
// control protocol's requests and answers, and the Prometheus metrics.
//
// It promises that payloads and subjects are those of subjects.md. What they say is decided elsewhere: pkg/breaker turns
// failures into health, pkg/proxy builds the messages.
package health
