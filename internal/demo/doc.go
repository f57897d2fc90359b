// Package demo shows what subproxy is for, on one machine and without anything installed: a NATS cluster,
// emitters, instances with subscriptions, a publisher and subscribers, and one fault after another. Each
// fault is a line: what broke, when the registrations were verified again, how long delivery stood still,
// and what was sent, delivered and lost so far.
//
// Everything that breaks is a process of its own, a child of this one, so that a kill is a SIGKILL. What
// counts is not: the publisher and the subscribers are plain nats.go in this process, and trust nothing
// that the instances say about deliveries.
package demo
