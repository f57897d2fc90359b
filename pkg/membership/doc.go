// Package membership says which instances live. An instance holds a Session; a Membership follows the
// sessions of all.
//
// A Session says that one run of an instance lives: one key in the cluster bucket (MemberKey), renewed four
// times a TTL by conditional writes. Of two runs of one name the incarnation in the record decides, by
// conditional writes. A Membership knows who lives (View), with the grace that candidates of an election
// have too: silence and expiry are no deaths while JetStream is away. All that see the same records come to
// the same view. Views may differ meanwhile, so what is done because of a view has to be conditional
// itself.
//
// Left to the caller: what members share, and who of them is to have what.
//
// Not guarded against: a bucket emptied without markers twice, between the writes of two live runs of one
// name. Each of the two may then find that the other is the later.
package membership
