// Package cluster hears of and tells of changes in the cluster: the store's leader moved, its emitters restarted, the
// bucket's own RAFT leader changed. And it elects the leader of a store among its candidates.
//
// It reads the two cluster events generously, because re-registering is cheap and missing a leader change is not: every
// field is optional, and what can't be read means every store. It bridges JetStream's leader advisories into the same
// events. What an event causes is pkg/proxy's business. It also holds an instance's session and follows those of the others.
//
// # Election
//
// A leader holds a lease, one key in the cluster bucket (LeaderKey), and renews it four times a TTL. Each write is
// conditional on the revision that it was decided on, so one of all candidates wins, and whoever was overtaken finds out by
// its next write. No wall clock is compared; when to try is told by each candidate's own:
//
//   - A lease that was resigned or deleted is contended for at once.
//   - A lease that is silent is taken over a TTL after its last renewal. The last part of that, the grace, counts only
//     from the word of the bucket's RAFT leader that there is nothing newer. While JetStream is away nobody can
//     renew; once it is back, the leader that lives has the grace to do so.
//   - A lease that the bucket expired is taken over after the grace, and written again at once by a holder that lives.
//
// A leader does not step down because its writes fail: while nobody can write, nobody else leads. So a leader that is cut off
// believes that it leads after another was elected. What it does must therefore be fenced by the term, which
// grows with each leadership, or be conditional itself; Lease.Verify asks. What a leader does, and telling others of it
// (Announce), is the caller's business.
//
// Not guarded against: a leader paused while the bucket is deleted and made anew, if the new lease has by chance the
// very revision of the old. It then overwrites the new leader once, with a term that proxies refuse.
//
// # Sessions and members
//
// A Session says that one run of an instance lives: one key (MemberKey), renewed like a lease. Of two runs of one name
// the incarnation in the record decides, by conditional writes. A Membership follows the sessions of all and tells who
// lives (View), with the same grace as candidates have: silence and expiry are no deaths while JetStream is away. All
// that see the same records come to the same view. Views may differ meanwhile, so what is done because of one has to be
// conditional itself.
//
// Not guarded against: a bucket emptied without markers twice, between the writes of two live runs of one name, which may
// both take it that the other is the later.
package cluster
