package link

import "time"

const (
	// firstBytes is what may be under way before anything is known of the link. A link of 4 Mbit/s carries
	// it in 8 s: a server gives up a client to which it can't write for 10 s.
	firstBytes = 4 << 20
	// leastBytes may always be under way.
	leastBytes = 64 << 10
	// mostBytes is less than half of what a server lets wait for a client before it gives it up (64 MiB):
	// live events come over the same connection.
	mostBytes = 24 << 20
	// mostDelay is how long bytes may take beyond a round trip. What is sent behind them, such as the
	// renewal of a lease, waits as long.
	mostDelay = time.Second
)

// Budget is how many bytes that were asked for may be under way. It grows while what arrives takes little more
// than a round trip, and shrinks where it takes longer than mostDelay beyond that: the link is thin then, and
// whatever is asked for at once waits in a queue. It is a plain value; the zero value is a budget of which
// nothing is under way.
//
// Invariant: granted is what was granted and has not arrived. It is above the size only by one grant that was
// made when nothing was under way, or by what was granted before the budget shrank.
type Budget struct {
	size    int // 0: firstBytes
	granted int
}

// Size is how many bytes may be under way.
func (b *Budget) Size() int {
	if b.size == 0 {
		return firstBytes
	}
	return b.size
}

// Grant grants up to want bytes: half of the budget at the most, so that while one page arrives another can
// be on its way. It is 0 where there is no room at present.
func (b *Budget) Grant(want int) int {
	grant := min(max(want, 1), max(b.Size()/2, leastBytes))
	if b.granted > 0 {
		room := b.Size() - b.granted
		if room < min(grant, leastBytes) {
			return 0
		}
		grant = min(grant, room)
	}
	b.granted += grant
	return grant
}

// Return gives a grant back of which nothing is under way any more.
func (b *Budget) Return(grant int) { b.granted -= grant }

// Judge takes how long the bytes of a grant took from the request until the last of them had arrived, over a
// link with that round trip at the least.
func (b *Budget) Judge(bytes int, took, roundTrip time.Duration) {
	allowed := roundTrip + mostDelay
	switch size := b.Size(); {
	case took > allowed:
		b.size = max(leastBytes, int(float64(size)*max(0.5, float64(allowed)/float64(took))))
	case took < roundTrip+mostDelay/4 && bytes >= size/4: // it was of use
		b.size = min(2*size, mostBytes)
	}
}

// Lost is for a connection that was lost: perhaps by what was asked for. Nothing of it is under way.
func (b *Budget) Lost() { b.size = max(leastBytes, b.Size()/2) }
