// Package subscription says what a subscription is: durable intent to receive the events of one store that
// a selector picks, under a name. It knows the four types, how names from outside become tokens that are
// legal in NATS subjects and keys, and which emitter topics name a subscription.
//
// It promises that Key and ParseKey, EncodeToken and DecodeToken are each other's inverse, and that what
// Validate accepts can be stored and subscribed to. It knows no NATS connection and no other package of the
// project.
package subscription
