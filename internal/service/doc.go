// Package service wires the parts to one running instance: a connection, the bucket, the feed that follows
// it, the listener for cluster events, the supervisor of the proxies, and the control service. It decides
// nothing itself.
package service
