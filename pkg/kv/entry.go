package kv

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/payload"
	"github.com/exesdb/subproxy/pkg/subscription"
)

const (
	operationHeader = "KV-Operation"
	operationDelete = "DEL"
	operationPurge  = "PURGE"
)

// Operation says what an entry does to its key.
type Operation uint8

// The operations.
const (
	Put     Operation = iota // a record was written
	Deleted                  // a record was deleted or purged: that was meant
	Expired                  // a record outlived its TTL
)

// String names the operation for logs.
func (o Operation) String() string { return [...]string{"put", "deleted", "expired"}[o] }

// Entry is one revision of a key, as the bucket's stream has it.
type Entry struct {
	Key       string
	Revision  uint64
	Operation Operation
	Data      []byte // a Put's record, not decoded yet
	Time      time.Time
	// Incarnation is the highest that the key has had, of a Deleted that says it (Write.Incarnation); 0: it
	// does not.
	Incarnation uint64
	// Term is the highest term of the store known then, of a Deleted that says it (Write.Term); 0: it does
	// not.
	Term uint64
}

// NewEntry reads an entry from the parts of a stream message.
func (b *Bucket) NewEntry(subject string, revision uint64, header nats.Header, data []byte, at time.Time) Entry {
	e := Entry{Key: b.Key(subject), Revision: revision, Operation: operation(header), Data: data, Time: at}
	if e.Operation == Deleted {
		// By hand they may say anything: 0.
		e.Incarnation, _ = strconv.ParseUint(event.Value(header, event.IncarnationHeader), 10, 64)
		if e.Term, _ = strconv.ParseUint(event.Value(header, event.TermHeader), 10, 64); e.Term > event.MaxTerm {
			e.Term = 0
		}
	}
	return e
}

func operation(header nats.Header) Operation {
	if reason := header[jetstream.MarkerReasonHeader]; len(reason) > 0 {
		if reason[0] == "MaxAge" {
			return Expired
		}
		return Deleted
	}
	if op := header[operationHeader]; len(op) > 0 && (op[0] == operationDelete || op[0] == operationPurge) {
		return Deleted
	}
	return Put
}

// Contains reports whether the entry is a record that these bytes stand in: a way to know one without
// decoding it.
func (e *Entry) Contains(part []byte) bool {
	return e.Operation == Put && bytes.Contains(e.Data, part)
}

func (b *Bucket) entry(m feed.Message) Entry {
	return b.NewEntry(m.Subject, m.Sequence, m.Header, m.Data, m.Time)
}

// Get reads what is under the key now, from any replica. Nothing there is ok false; a replica that lags
// says so too, and a mirror of the bucket.
func (b *Bucket) Get(ctx context.Context, key string) (e Entry, ok bool, err error) {
	m, err := b.direct.Last(ctx, b.Subject(key))
	switch {
	case errors.Is(err, feed.ErrNothing):
		return Entry{}, false, nil
	case err != nil:
		return Entry{}, false, fmt.Errorf("read %s: %w", key, describeRead(err))
	}
	return b.entry(m), true, nil
}

// GetFromLeader reads what is under the key now, from the leader's own store: slower than Get, but never
// behind a write that was acknowledged.
func (b *Bucket) GetFromLeader(ctx context.Context, key string) (e Entry, ok bool, err error) {
	ctx, end := b.link.Limit(ctx, leaderWait)
	defer end()
	m, err := b.direct.LeaderLast(ctx, b.Subject(key))
	switch {
	case errors.Is(err, feed.ErrNothing):
		return Entry{}, false, nil
	case err != nil:
		return Entry{}, false, fmt.Errorf("read %s from the leader: %w", key, describeRead(err))
	}
	return b.entry(m), true, nil
}

// Newest reads what was written last of all keys of a store, from the leader's own store. It may be the
// marker of a deletion.
func (b *Bucket) Newest(ctx context.Context, store string) (e Entry, ok bool, err error) {
	return b.GetFromLeader(ctx, subscription.EncodeToken(store)+".>")
}

// Keys returns a store's keys as the bucket's leader has them, those of deletion markers too.
func (b *Bucket) Keys(ctx context.Context, store string) (map[string]bool, error) {
	ctx, end := b.link.Limit(ctx, readTimeout)
	defer end()
	var err error
	stream, there := b.handles.Get().(jetstream.Stream)
	if !there {
		stream, err = b.js.Stream(ctx, b.Stream())
	}
	var info *jetstream.StreamInfo
	if err == nil {
		info, err = stream.Info(ctx, jetstream.WithSubjectFilter(b.prefix+subscription.EncodeToken(store)+".>"))
	}
	if err != nil {
		return nil, fmt.Errorf("list the keys of %s in %s: %w", store, b.bucket, describeRead(err))
	}
	b.handles.Put(stream)
	subjects := info.State.Subjects
	keys := make(map[string]bool, len(subjects))
	for subject := range subjects {
		keys[b.Key(subject)] = true
	}
	return keys, nil
}

// GetLast reads what is under each of the keys now, from any replica, and calls found for each that there
// is: in as few requests as the server takes so many keys in. A key that is not shown may be there: the
// replica may lag, or have been a mirror. A failure can come after some were found.
func (b *Bucket) GetLast(ctx context.Context, keys []string, found func(Entry)) error {
	room := payload.Room(b.js.Conn().MaxPayload())
	for _, part := range payload.Parts(keys, MaxGetLast, room, func(key *string) int { return len(b.prefix) + payload.Text(*key) }) {
		if err := b.getLast(ctx, part, found); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bucket) getLast(ctx context.Context, keys []string, found func(Entry)) error {
	ctx, end := b.link.Limit(ctx, readTimeout)
	defer end()
	if err := b.direct.LastOf(ctx, b.subjects(keys), func(m feed.Message) { found(b.entry(m)) }); err != nil {
		return fmt.Errorf("read %d keys of %s: %w", len(keys), b.bucket, describeRead(err))
	}
	return nil
}

// GetLastFromLeader is GetLast, with nothing left out: the leader is asked for what no replica shows.
func (b *Bucket) GetLastFromLeader(ctx context.Context, keys []string, found func(Entry)) error {
	missing := make(map[string]bool, len(keys))
	for _, key := range keys {
		missing[key] = true
	}
	err := b.GetLast(ctx, keys, func(e Entry) {
		delete(missing, e.Key)
		found(e)
	})
	if err != nil || len(missing) == 0 {
		return err
	}
	ctx, end := b.link.Limit(ctx, readTimeout)
	defer end()
	rest := b.subjects(slices.Collect(maps.Keys(missing)))
	if err := b.direct.LeaderLastOf(ctx, rest, func(m feed.Message) { found(b.entry(m)) }); err != nil {
		return fmt.Errorf("read %d keys of %s from the leader: %w", len(rest), b.bucket, describeRead(err))
	}
	return nil
}

func (b *Bucket) subjects(keys []string) []string {
	subjects := make([]string, len(keys))
	for i, key := range keys {
		subjects[i] = b.Subject(key)
	}
	return subjects
}

// MaxGetLast is how many keys are read with one request at the most: the server answers at most 1,024
// subjects a request.
const MaxGetLast = 1000

// leaderWait is what the leader may take for one request: what it holds is known at once, or it is away. The
// way there and back is added.
const leaderWait = time.Second

// readTimeout is likewise for one request for many records; 1,000 records take some 10 ms.
const readTimeout = 5 * time.Second

// List reads every record that is there now, in revision order, from any replica; that there are no more is
// the leader's word. Store and name narrow it; empty means all of them. Markers are left out. What is
// written meanwhile shows its last revision only.
func (b *Bucket) List(ctx context.Context, store, name string) ([]Entry, error) {
	latest := map[string]Entry{}
	err := b.each(ctx, store, name, func(e Entry) {
		if e.Operation == Put {
			latest[e.Key] = e
		} else {
			delete(latest, e.Key)
		}
	})
	if err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Values(latest), func(a, b Entry) int { return cmp.Compare(a.Revision, b.Revision) }), nil
}

// each reads every record and marker that is there now, as List does.
func (b *Bucket) each(ctx context.Context, store, name string, found func(Entry)) error {
	if b.absent {
		return nil
	}
	filter := b.prefix + subscription.TokenOrStar(store) + ".*.*." + subscription.TokenOrStar(name)
	for from := uint64(1); ; {
		page, err := b.page(ctx, from, filter)
		if errors.Is(err, feed.ErrNothing) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", b.bucket, describeRead(err))
		}
		for _, m := range page {
			found(b.entry(m))
		}
		from = page[len(page)-1].Sequence + 1
	}
}

func (b *Bucket) page(ctx context.Context, from uint64, filter string) ([]feed.Message, error) {
	ctx, end := b.link.Limit(ctx, readTimeout)
	defer end()
	return b.direct.Page(ctx, from, filter, MaxGetLast, 0)
}

func describeRead(err error) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("no replica of the bucket answers: %w", err)
	case errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrReconnectBufExceeded):
		return ErrDisconnected
	default:
		return err
	}
}
