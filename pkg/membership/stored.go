package membership

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
)

// StoredMember is a session as the bucket has it, for who only looks.
type StoredMember struct {
	Member
	RenewedAt time.Time // by the server's clock
}

// Overdue reports whether the session was not renewed in time, as far as the clocks of the server and of
// this host agree.
func (s *StoredMember) Overdue(now time.Time) bool {
	return now.Sub(s.RenewedAt) > s.ttl()+lease.DefaultGrace
}

// ReadMembers reads the sessions that are in the bucket now, by name. A bucket that is not there holds
// none.
func ReadMembers(ctx context.Context, bucket *kv.Bucket) ([]StoredMember, error) {
	found, err := bucket.Keys(ctx, memberPrefix[:len(memberPrefix)-1])
	if err != nil {
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil, nil
		}
		return nil, err
	}
	var members []StoredMember
	for keys := range slices.Chunk(slices.Sorted(maps.Keys(found)), kv.MaxGetLast) {
		err := bucket.GetLastFromLeader(ctx, keys, func(e kv.Entry) {
			if m, err := DecodeMember(e.Key, e.Data); err == nil && e.Operation == kv.Put {
				members = append(members, StoredMember{m, e.Time})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(members, func(a, b StoredMember) int { return cmp.Compare(a.Name, b.Name) })
	return members, nil
}
