package feed

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// decode reads a republished message, or an answer to a direct get: both carry the same headers. It reports
// false for anything that is not a message of the stream.
func decode(m *nats.Msg, stream string) (Message, bool) {
	if added(m.Header, jetstream.StreamHeader) != stream {
		return Message{}, false
	}
	seq, err := strconv.ParseUint(added(m.Header, jetstream.SequenceHeader), 10, 64)
	if err != nil || seq == 0 {
		return Message{}, false
	}
	stored, err := time.Parse(time.RFC3339Nano, added(m.Header, jetstream.TimeStampHeaer))
	if err != nil {
		return Message{}, false
	}
	return Message{
		Subject:  added(m.Header, jetstream.SubjectHeader),
		Sequence: seq,
		Time:     stored,
		Header:   m.Header,
		Data:     m.Data,
	}, true
}

// added returns a header the server put there. It appends, so if the message was stored with one of the
// same name (it had been republished before), the last is the server's. Header.Get would return the first.
func added(h nats.Header, key string) string {
	v := h[key]
	if len(v) == 0 {
		return ""
	}
	return v[len(v)-1]
}
