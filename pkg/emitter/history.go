package emitter

import (
	"maps"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nuid"

	"github.com/exesdb/subproxy/pkg/feed"
)

// history is which events of the store the sequences are of, and what proves it. The leader's loop owns it.
type history struct {
	epoch     string                     // its name
	created   string                     // the stream's creation, as it was told last: it names a new history, and proves nothing
	known     feed.Witnesses             // messages of it
	unsure    feed.Witnesses             // seen since the feed said that the stream is another, until it is compared
	first     uint64                     // of the stream's messages, where known was told last
	former    map[string]feed.Comparison // what epochs before have in common with the stream, as far as they were compared
	resetting bool                       // the stream is another, and has not been read to its end yet
	resets    int
	checking  bool         // whether the stream went back
	heard     feed.Witness // the last message of the tail, since the feed said last that the stream is another
}

// ends are the witnesses for a checkpoint: the first one known, and the last message, since a checkpoint
// must not be beyond what proves it.
func (h *history) ends(doubtful bool) []feed.Witness {
	known := h.known
	if !doubtful {
		known.Add(h.heard)
	}
	all := known.List(h.first)
	if len(all) > 2 {
		all = []feed.Witness{all[0], all[len(all)-1]}
	}
	return all
}

// see takes messages that the stream has. While it is in doubt which history that is, they prove nothing of
// this one.
func (h *history) see(seen []feed.Witness, doubtful bool) {
	if doubtful {
		h.unsure.Add(seen...)
		return
	}
	h.known.Add(seen...)
	if len(seen) > 0 {
		h.first = seen[0].Sequence
	}
}

// compared notes what the epoch so far has in common with the stream, where another begins.
func (h *history) compared(epoch, next string, c feed.Comparison) {
	if epoch != next && epoch != "" {
		h.former = maps.Clone(h.former)
		if h.former == nil {
			h.former = map[string]feed.Comparison{}
		}
		h.former[epoch] = c
	}
}

// begin goes on under the epoch, which has what was known up to a sequence.
func (h *history) begin(epoch string, upTo uint64) {
	known := h.known.List(0)
	h.known, h.unsure = h.unsure, feed.Witnesses{}
	for _, w := range known {
		if w.Sequence <= upTo {
			h.known.Add(w)
		}
	}
	h.epoch, h.first = epoch, 0
}

// successor is the epoch to go on with where one is recorded, and up to where it has the events of that
// one. Where nothing is proven the creation time decides, as it does for what versions before have
// recorded.
func successor(recorded, created string, c feed.Comparison) (epoch string, upTo uint64) {
	switch {
	case recorded == "":
		return created, math.MaxUint64
	case c.Kinship == feed.Same, c.Kinship == feed.Unproven && ofStream(recorded, created):
		return recorded, math.MaxUint64
	case c.Kinship == feed.Shorter || c.Kinship == feed.Forked:
		return laterEpoch(creationIn(recorded), c.Shared), c.Shared
	case ofStream(recorded, created): // all servers of a stream in memory were killed: what it holds is gone, its creation is not
		return laterEpoch(created, 0), 0
	}
	return created, 0
}

// creationIn is the creation time that an epoch begins with: the stream's when the first epoch of its kind
// began.
func creationIn(epoch string) string {
	created, _, _ := strings.Cut(epoch, "-")
	return created
}

// witnessText is how witnesses stand in leases and checkpoints: sequence@nanoseconds since 1970, ascending,
// a blank between.
func witnessText(all []feed.Witness) string {
	var text []byte
	for i, w := range all {
		if i > 0 {
			text = append(text, ' ')
		}
		text = strconv.AppendInt(append(strconv.AppendUint(text, w.Sequence, 10), '@'), w.Time.UnixNano(), 10)
	}
	return string(text)
}

// parseWitness reads what witnessText writes. What is none is left out: it comes from anybody.
func parseWitness(texts ...string) []feed.Witness {
	var all feed.Witnesses
	for _, text := range texts {
		for _, one := range strings.Fields(text) {
			seq, at, _ := strings.Cut(one, "@")
			sequence, err := strconv.ParseUint(seq, 10, 64)
			nanos, err2 := strconv.ParseInt(at, 10, 64)
			if err == nil && err2 == nil {
				all.Add(feed.Witness{Sequence: sequence, Time: time.Unix(0, nanos).UTC()})
			}
		}
	}
	return all.List(0)
}

// ofStream reports whether an epoch is of the stream of that creation: the creation itself or, after the
// stream went back to an earlier state, that and something new.
func ofStream(epoch, created string) bool {
	return epoch == created || strings.HasPrefix(epoch, created+"-")
}

// laterEpoch is an epoch of the same stream, after it went back to an earlier state that ended with that
// sequence.
func laterEpoch(created string, last uint64) string {
	return created + "-" + strconv.FormatUint(last, 10) + "-" + nuid.Next()
}

// shared is up to where an epoch has the same events as the ones of that stream before it.
func shared(epoch, created string) uint64 {
	went, ok := strings.CutPrefix(epoch, created+"-")
	last, _, _ := strings.Cut(went, "-")
	if n, err := strconv.ParseUint(last, 10, 64); ok && err == nil {
		return n
	}
	return math.MaxUint64
}

// placeIn is up to where a checkpoint counts in the history of an epoch, of which least is the start of its
// subscription; false: its history is no more, and everything is new.
func (c *Checkpoint) placeIn(epoch string, compared feed.Comparison, least uint64) (at uint64, ok bool) {
	created := creationIn(epoch)
	switch {
	case c.Epoch == "" || c.Epoch == epoch: // the first is written by hand, or by somebody else's emitter
		return c.Sequence, true
	case compared.Kinship == feed.Another:
		return 0, false
	case compared.Kinship != feed.Unproven:
		return min(c.Sequence, max(compared.Shared, least)), true
	case ofStream(c.Epoch, created): // the stream went back while the subscription was not registered
		return min(c.Sequence, max(shared(epoch, created), least)), true
	}
	return 0, false
}
