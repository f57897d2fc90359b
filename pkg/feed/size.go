package feed

import (
	"sync/atomic"
	"time"
)

// farAway is a round trip from which on more is asked for ahead. What is nearer answers sooner than a page is
// dealt with.
const farAway = 5 * time.Millisecond

// messageSize is how many bytes a message of the stream takes on the wire, about: what came last counts most.
// It is safe for concurrent use; 0 is not known.
type messageSize struct{ bytes atomic.Int64 }

// observe takes the size of a message, or the mean of some.
func (s *messageSize) observe(bytes int) {
	if before := s.bytes.Load(); before > 0 {
		bytes = int(before) + (bytes-int(before))/4
	}
	s.bytes.Store(int64(bytes))
}

// of is how many bytes to ask for so many messages with: a quarter more than they take, and at least leastPage;
// most at the most, and where nothing is known.
func (s *messageSize) of(messages, most int) int {
	bytes := int(s.bytes.Load())
	if bytes == 0 || bytes > most/messages {
		return most
	}
	return min(most, max(messages*bytes*5/4, leastPage))
}

// leastPage is asked for in bytes also where less would do: sizes differ.
const leastPage = 256 << 10
