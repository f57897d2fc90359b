// Package feed follows a JetStream stream, or the stream of a KV bucket, without JetStream consumers.
//
// It promises that the handler gets every message that stays in the stream, once, in stream order, through lost
// connections, killed nodes and changes of leader; and that it is told (Reset) when the stream is not the one it
// followed before. A message deleted or overwritten before it was read may be left out. It keeps no position: the caller
// passes StartSeq. Deciding what a message means is left to the handler.
//
// # How
//
// Live messages come by the stream's republish, over a plain subscription. A jump in their sequence, or a last sequence
// beyond ours in the stream's info (asked for every second, after a reconnect and on Poke), makes the feed read the
// stream from our last sequence on: a page by direct get, and where the replica that answers has no more, one message
// from the stream's leader. The same reading is the start.
//
// # Why nothing is lost or swapped
//
// Let last be our sequence. It moves from last to s in two ways only, and never on the word that something is absent.
//
//   - Live, s = last+1. Nothing lies between.
//   - Read, s > last. A page is the work of one server that walks its copy upwards from last+1, and the same is true of
//     "the next message after last" from the leader. A copy only grows at its end: a server that has s has applied
//     all that was stored before s. So what it did not show between last and s was gone by then. That the
//     server lags behind others, or answers for a moment as a deposed leader, changes nothing: it then shows less, but
//     no hole. A lost answer would be a hole; each answer names the one before it, and the page ends at a mismatch.
//     A Stretch's consumer is the work of one server too, and counts what it delivers.
//     Mirrors, which may be filtered, can answer direct gets too; their answers name another stream and are not used.
//
// That a message is missing is therefore never accepted, only that there is nothing to read yet. When the leader says
// so (a JetStream leader answers once it has applied all that was committed before its election), the feed is level.
// In case that leader had been deposed, polls ask again until it was said three times, and the next live message,
// which comes behind a jump, makes the feed read once more. So what the live path lost is found within a poll interval,
// as long as somebody can be asked.
//
// # When it is another stream
//
// The stream is another if its creation time differs; if it ends before last in two infos, 200 ms or more apart, both
// asked for after last was reached; or if the leader has, at last, a message with another time than ours. The last is
// asked when a live sequence goes back, after a reconnect, and when info shows another time for the last sequence.
// A server may serve a stream for a while after it was deleted and created anew elsewhere. Its messages are older than
// the creation of the new stream, and such are taken only from the leader. If the leader itself has them (a mirror,
// a stream leader whose clock is behind) that check ends.
//
// Not seen: a stream of the same creation time that went back, grew beyond last, and has nothing at last any more, all
// while the feed was away; and messages of a deleted stream stored, by a wrong clock, after the creation of the new.
//
// # The other way
//
// A stream that does not republish everything wanted, or allows no direct get, is followed by an ephemeral ordered
// consumer (Stats.Mode tells), with the same polls and the same resets. While the consumer stands still the
// missing messages are read from the leader.
//
// Permissions needed: publish to $JS.API.STREAM.INFO, STREAM.MSG.GET and DIRECT.GET of the stream, subscribe to the
// republish destination and the connection's inboxes; without republish, to create, read and delete consumers. A Stretch
// makes do without the latter.
package feed
