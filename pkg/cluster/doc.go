// Package cluster hears of and tells of changes in the cluster: a store's leader moved, its emitters
// restarted, the bucket's own RAFT leader changed.
//
// It reads the two cluster events generously, because re-registering is cheap and missing a leader change
// is not: every field is optional, and an event whose store can't be read means every store. It bridges
// JetStream's leader advisories into the same events. A Listener hears each event once, and outlives
// reconnects.
//
// What an event causes is decided by the proxies. Who leads a store is decided by pkg/election, and who
// lives is known to pkg/membership.
package cluster
