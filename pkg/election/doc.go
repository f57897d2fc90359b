// Package election elects the leader of a store among its candidates, without any coordinator but a bucket.
//
// A leader holds a lease, one key in the cluster bucket (LeaderKey), and renews it four times a TTL. Each
// write is conditional on the revision that it was decided on. So one of all candidates wins, and a leader
// that was overtaken finds out by its next write. No wall clock is compared; each candidate's own clock
// only says when to try:
//
//   - A lease that was resigned or deleted is contended for at once.
//   - A lease that is silent is taken over a TTL after its last renewal. The last part of that, the grace,
//     counts only from the word of the bucket's RAFT leader that there is nothing newer. While JetStream is
//     away nobody can renew; once it is back, the leader that lives has the grace to do so.
//   - A lease that the bucket expired is taken over after the grace, and written again at once by a holder
//     that lives.
//
// A leader does not step down because its writes fail: while nobody can write, nobody else leads. So a
// leader that is cut off believes that it leads after another was elected. What it does must therefore be
// fenced by the term, which grows with each leadership, or be conditional itself.
//
// Left to the caller: what a leader does, and telling others of it (cluster.Announce).
//
// Not guarded against: a leader paused while the bucket is deleted and made anew, if the new lease has by
// chance the very revision of the old. It then overwrites the new leader once, with a term that proxies
// refuse.
package election
