package kv

import (
	"context"
	"errors"
	"fmt"
)

// LowerTerms writes the markers of a store's deleted registrations that say a term above the one given
// again with that one. What somebody else writes meanwhile stays.
func (b *Bucket) LowerTerms(ctx context.Context, store string, term uint64) error {
	var writes []Write
	err := b.each(ctx, store, "", func(e Entry) {
		if e.Operation == Deleted && e.Term > term {
			writes = append(writes, Write{Key: e.Key, Revision: e.Revision, Incarnation: e.Incarnation, Term: term})
		}
	})
	if err != nil {
		return err
	}
	for _, result := range b.Put(ctx, writes) {
		if result.Err != nil && !errors.Is(result.Err, ErrConflict) {
			return fmt.Errorf("lower the terms of %s: %w", store, result.Err)
		}
	}
	return nil
}
