// Package cluster hears of and tells of changes in the cluster: the store's leader moved, its emitters restarted, the
// bucket's own RAFT leader changed.
//
// It reads the two cluster events generously, because re-registering is cheap and missing a leader change is not: every
// field is optional, and what can't be read means every store. It bridges JetStream's leader advisories into the same
// events. What an event causes is pkg/proxy's business.
package cluster
