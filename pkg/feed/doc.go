// Package feed follows a JetStream stream, or the stream of a KV bucket, without JetStream consumers.
//
// It promises that the handler gets every message that stays in the stream, once, in stream order, through
// lost connections, killed nodes and changes of leader; and that it is told (Reset) when the stream is not
// the one it followed before. A message deleted or overwritten before it was read may be left out. It keeps
// no position: the caller passes StartSeq. Deciding what a message means is left to the handler.
//
// # How
//
// Live messages come by the stream's republish, over a plain subscription. A jump in their sequence, or a
// last sequence beyond ours in the stream's info (asked for every second, after a reconnect and on Poke),
// makes the feed read the stream from our last sequence on: a page by direct get, and where the replica
// that answers has no more, one message from the stream's leader. The same reading is the start.
//
// # Why nothing is lost or swapped
//
// Let last be our sequence. It moves from last to s in two ways only, and never on the word that something
// is absent.
//
//   - Live, s = last+1. Nothing lies between.
//   - Read, s > last. A page is the work of one server that walks its copy upwards from last+1, and the same is true of
//     "the next message after last" from the leader. A copy only grows at its end: a server that has s has applied
//     all that was stored before s. So what it did not show between last and s was gone by then. That the
//     server lags behind others, or answers for a moment as a deposed leader, changes nothing: it then shows less, but
//     no hole. A lost answer would be a hole; each answer names the one before it, and the page ends at a mismatch.
//     A BulkReader's consumer is the work of one server too, and counts what it delivers.
//     Mirrors, which may be filtered, can answer direct gets too; their answers name another stream and are not used.
//
// That a message is missing is therefore never accepted, only that there is nothing to read yet. When the
// leader says so (a JetStream leader answers once it has applied all that was committed before its
// election), the feed is level. In case that leader had been deposed, polls ask again until it was said
// three times, and the next live message, which comes behind a jump, makes the feed read once more. So what
// the live path lost is found within a poll interval, as long as somebody can be asked.
//
// # When it is another stream
//
// A creation time proves nothing: a restored stream has a new one (in a cluster one a server), and streams
// in memory keep theirs when all servers were killed and sequences begin anew. What proves something is a
// message: no other has the same sequence and the same time, and a copy that has it has what was stored
// before it. The feed remembers some (Witnesses), each known before a look that found no reason for doubt.
// A live message is none before that: it may be of another stream already.
//
// The stream is another if it ends before last in two infos, 200 ms or more apart, both asked for after
// last was reached; or if the leader has another message in place of the one that was last, or of a
// witness. That is asked when a live sequence goes back, after a reconnect, and when info shows another
// time for the first or the last sequence. Where the creation time differs, the witnesses decide
// (Comparison). If none of them is there, nor another in its place, another stream is assumed, unless it
// begins behind last: then nothing of it can be missed.
//
// Another stream of the same name may send under the same subject: that of another JetStream domain, across
// the link of a leaf node. Nothing in its messages tells. The first one may be believed, which ends in a
// reset. Once there is reason to think of it (a reset of a stream that went back, a suspicion that proved
// wrong, a sequence that the leader did not reach), live messages are hints only, for a minute, and for ten
// after the last one that was foreign: each makes the feed read the stream, and only what was read is handed on.
//
// A server may serve a stream for a while after it was deleted and created anew elsewhere. Its messages are
// older than the creation of the new stream, and such are taken only on the leader's word. If the leader
// itself has one (a mirror, a restored stream, a leader whose clock is behind) a Feed checks no further. A
// Reader asks the leader for the last such message of each page: pages are of one copy, so with that
// message those before it are the leader's. A BulkReader need not ask: a consumer ends with its stream, and
// this one was made on the stream that is there now.
//
// Not seen: a stream of the same creation time that went back, grew beyond last, and has nothing at last
// any more, all while the feed was away; messages of a deleted stream stored, by a wrong clock, after the
// creation of the new; and, once a feed's leader has shown an old message, what a server still serves that
// has not heard of the deletion.
//
// # The other way
//
// A stream that does not republish everything wanted, or allows no direct get, is followed by an ephemeral
// ordered consumer (Stats.Mode tells), with the same polls and the same resets. While the consumer stands
// still the missing messages are read from the leader.
//
// Permissions needed: publish to $JS.API.STREAM.INFO, STREAM.MSG.GET and DIRECT.GET of the stream,
// subscribe to the republish destination and the connection's inboxes; without republish, to create, read
// and delete consumers. A BulkReader makes do without the latter.
package feed
