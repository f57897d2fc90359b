// Package registration is the record that says which instance holds a subscription, and on which deliver
// subject it receives the subscription's events.
//
// Encode and Decode are the record's JSON form, a contract with programs in other languages; subjects.md is
// its published form. Decode refuses a record that is not the one of its key, and a record without an
// owner.
//
// The package knows no NATS: pkg/kv stores the records, pkg/feed follows them, and the rules of pkg/proxy
// decide what to write.
package registration
