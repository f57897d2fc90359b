// Package lease has what a run needs to keep a record of its own under one key of the cluster bucket, and what others need to
// judge whether the run that keeps such a record lives. Elections and memberships are built on it.
//
// A Follower hears every change of the bucket, for all who want to know. An Observation is what was last seen of a key. A
// Client makes the requests that rules ask for, one at a time, and tells them what the feed shows meanwhile. The rules
// themselves are values: they get an Input and the time, and return Effects.
//
// What to write, and what a record that vanished or was overwritten means, are decided by pkg/election and pkg/membership.
package lease
