package feed

import "github.com/nats-io/nats.go/jetstream"

// Storage is how large a stream is created, and where, beside its replicas. The zero value is without a
// limit, wherever there is room.
type Storage struct {
	MaxBytes   int64 // 0: no limit, which some accounts do not allow
	Compressed bool  // S2, in files
	Placement  *jetstream.Placement
}

// Set has a stream created so.
func (s *Storage) Set(c *jetstream.StreamConfig) {
	c.MaxBytes, c.Placement = -1, s.Placement
	if s.MaxBytes > 0 {
		c.MaxBytes = s.MaxBytes
	}
	if s.Compressed {
		c.Compression = jetstream.S2Compression
	}
}
