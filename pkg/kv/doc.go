// Package kv is a JetStream key-value bucket as subproxy uses one: for registrations, for leases and
// sessions, and for checkpoints (Kind).
//
// It creates a bucket or checks the one that is there, writes records conditionally and in pipelined
// batches, deletes them, reads them, and turns messages of the bucket's stream into entries for those who
// follow it (pkg/feed). A write is never retried, and never sent late: it fails with an error that says
// why. A read from a replica may lag behind a write; a read from the leader does not.
//
// A write is only acknowledged here: pkg/verify reads it back. What a record says is not known here:
// pkg/registration, pkg/cluster and pkg/emitter encode and decode theirs.
//
// The buckets' names and settings are a contract with programs in other languages; subjects.md is its
// published form.
package kv
