// Package rebalance moves one store's subscriptions between the instances that share them.
//
// A transfer has these steps. Each instance sees its own side of it.
//
//  1. The receiver should hold a subscription rather than its holder does (package placement), and requests it.
//  2. The holder grants the request, and releases the subscription: nothing more goes to the subscriber.
//  3. Once its sink has nothing in hand, the holder offers the subscription. Its record stays.
//  4. The receiver accepts the offer: it writes over the record. The subscription is nobody's for one message and one write.
//  5. The holder sees the record of the receiver. Where it does not in time, it reclaims the subscription: it deletes the
//     record, and anybody may claim it.
//
// A subscription that nobody holds is claimed: by the member that should hold it at once, by the others in
// turns, one after the other.
//
// Rebalancer is a plain value: it starts nothing, asks no clock and sends nothing. Note tells it what
// happened; Step says what to do now. It promises that requests and grants under way are bounded, and that
// every transfer ends. That no two instances hold a subscription is for conditional writes and
// incarnations; whether a proxy may be released, and what it is registered at, is for its owner to know.
package rebalance
