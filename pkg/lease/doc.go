// Package lease keeps a record of one run under one key of the cluster bucket, and judges whether the run
// that keeps such a record lives. Elections and sessions both are records that are kept.
//
//   - A Keeper has the rules of keeping: when to write, renew, read and delete, and what an answer or an
//     entry on the feed means for the record. It is a value that takes an Input and the time, and does no
//     I/O.
//   - An Observation is what was last seen of a key. It says when a holder that does not renew has to be
//     given up.
//   - A Client makes the requests that rules ask for (Effects), one at a time, and tells the rules what
//     happened.
//   - A Follower hears every change of the bucket, for all elections, sessions and memberships of a process.
//
// Promised: each write is conditional on the revision that it was decided on, so no write overwrites a
// record that its writer has not seen. No two requests for a key are under way at once. A record is renewed
// four times a TTL, and written again at once where it vanished. A failure of JetStream is not taken for
// the death of a holder: the grace after which a silent holder is given up counts only from the bucket
// leader's word that there is nothing newer.
//
// Left to others: what the record says, which record outranks which, and what follows from that. See
// pkg/election and pkg/membership.
package lease
