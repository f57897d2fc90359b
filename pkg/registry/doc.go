// Package registry keeps registrations: the records in the JetStream KV bucket that say which instance, on which
// deliver subject, holds a subscription.
//
// It creates or checks the bucket, writes records conditionally and in pipelined batches, releases them, reads them,
// and turns messages of the bucket's stream into entries for whoever follows it (pkg/feed). A write here is only
// acknowledged, never verified: reading it back is pkg/verify's, deciding what to write is pkg/proxy's.
//
// The buckets of leases and of checkpoints are opened and written by the same means (Kind).
//
// The bucket's format is a contract with programs in other languages; subjects.md is its published form.
package registry
