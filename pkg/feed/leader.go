package feed

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// GetFromLeader returns a message of a stream as the stream's leader has it: the one at the sequence or, where subjects is not
// empty, the first at or after it whose subject matches. Any replica, or a mirror, may answer nats.go's GetMsg. ErrNothing says
// that the leader has none.
func GetFromLeader(ctx context.Context, js jetstream.JetStream, stream string, seq uint64, subjects string) (Message, error) {
	return newAPI(js, stream).askLeader(ctx, getRequest{Seq: seq, NextFor: subjects})
}
