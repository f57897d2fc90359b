package kv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/link"
)

// Names that the contract fixes.
const (
	DefaultBucket  = "exesdb_subscriptions"
	RepublishTo    = "exesdb.registry."      // followed by the key
	ClusterTo      = "exesdb.cluster.state." // followed by the key
	streamPrefix   = "KV_"
	subjectPrefix  = "$KV."
	writeAckWindow = 1 << 14 // writes in flight at once; a batch is never larger (proxy.takeoverBatch)
)

// markerTTL is how long the bucket remembers that a record was deleted or expired. Whoever follows the
// bucket hears of it at once; the marker is for those who were away, and an hour outlasts any reconnect
// worth resuming from.
const markerTTL = time.Hour

// releaseTTL is how long the bucket remembers the incarnation of a registration that was released.
// Subscribers refuse what is older than what they have seen, so a subscription must not begin at 1 again
// while one of them remembers: a month outlasts a subscription that is switched off for a while. A marker
// costs as much as a small record.
const releaseTTL = 30 * 24 * time.Hour

// Kind is what a bucket is for, and with that what it must be able to do.
type Kind struct {
	bucket      string // its default name
	description string
	republishTo string // followed by the key; empty: it is only read, not followed
	markers     bool   // deletions and expiries leave a marker, for those who follow it
}

// The kinds of bucket.
var (
	Registrations = Kind{DefaultBucket, "Event-store subscriptions: who holds each, and where its events go", RepublishTo, true}
	Cluster       = Kind{"exesdb_cluster", "Leases of event stores' leaders, and sessions of instances", ClusterTo, true}
	Checkpoints   = Kind{"exesdb_checkpoints", "Event-store subscriptions: what each has acknowledged", "", false}
)

// DefaultBucket is the name of the kind's bucket, where no other is given.
func (k Kind) DefaultBucket() string { return k.bucket }

// Flags are those of nats kv add, but for history and size, with which a bucket of that name is one of the
// kind; a blank follows each.
func (k Kind) Flags(bucket string) string {
	flags := ""
	if k.markers {
		flags += "--marker-ttl=1h "
	}
	if to := k.republishTo; to != "" {
		flags += fmt.Sprintf("--republish-source='%s%s.>' --republish-destination='%s>' ", subjectPrefix, bucket, to)
	}
	return flags
}

// Config says which bucket, and how to create it where it is absent.
type Config struct {
	Kind     Kind   // default Registrations
	Bucket   string // default the kind's
	Replicas int    // 1, 3 or 5; default 1
	Memory   bool   // memory storage in place of file
	Storage  feed.Storage
	AckWait  time.Duration // how long JetStream may take to acknowledge a write; default 2 s
	Records  int           // how many records it is to have room for at the least
	OnlyRead bool          // nothing is written here: whoever writes proves that a new bucket can be
	Logger   *slog.Logger  // told where a bucket has to be made twice; nil: nobody
}

func (c *Config) fill() {
	if c.Kind == (Kind{}) {
		c.Kind = Registrations
	}
	if c.Bucket == "" {
		c.Bucket = c.Kind.bucket
	}
	if c.AckWait == 0 {
		c.AckWait = 2 * time.Second
	}
}

// Bucket is an open bucket. It is safe for concurrent use.
type Bucket struct {
	js      jetstream.JetStream
	link    *link.Link
	kind    Kind
	bucket  string
	prefix  string // $KV.<bucket>.
	written string // what the subjects of writes begin with: the prefix, in the domain that has the bucket
	ackWait time.Duration
	direct  feed.Direct
	handles sync.Pool              // of jetstream.Stream: each serves one request at a time, which changes it
	patient atomic.Pointer[writer] // writes, where the link is slow; nil: js does
	absent  bool                   // OpenExisting found none

	ensuring sync.Mutex // held by Ensure
	there    bool       // it was made or found by Ensure, which alone uses it

	doubted atomic.Bool  // it was made, and is not proven to take writes
	spare   atomic.Bool  // where it takes none, it may be deleted and made once more
	made    atomic.Int64 // when it was made here, in nanoseconds; 0: it was there
}

// Open opens the bucket, creating it where it is absent. Where it is present and lacks needed settings, the
// error is a *MissingSettingError: an existing bucket is the user's, and is never changed here.
func Open(ctx context.Context, js jetstream.JetStream, cfg Config) (*Bucket, error) {
	cfg.fill()
	pipelined, err := withWriteWindow(js, cfg.AckWait)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", cfg.Bucket, err)
	}
	b := &Bucket{js: pipelined, link: link.Of(js.Conn()), kind: cfg.Kind, bucket: cfg.Bucket, prefix: subjectPrefix + cfg.Bucket + ".", ackWait: cfg.AckWait}
	b.written = mapped(js, b.prefix)
	b.direct = feed.NewDirect(js, b.Stream())
	if _, err := b.Ensure(ctx, cfg); err != nil {
		return nil, err
	}
	return b, nil
}

// Inspect looks whether the bucket is there, and whether it is as Open needs it, and changes nothing: where
// it is not, the error is a *MissingSettingError.
func Inspect(ctx context.Context, js jetstream.JetStream, cfg Config) (there bool, err error) {
	cfg.fill()
	b := &Bucket{kind: cfg.Kind, bucket: cfg.Bucket, prefix: subjectPrefix + cfg.Bucket + "."}
	stream, err := js.Stream(ctx, b.Stream())
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look at bucket %s: %w", cfg.Bucket, err)
	}
	return true, b.check(stream.CachedInfo().Config, cfg.Records)
}

// OpenExisting opens a bucket to read it, as it is: nothing is created and no setting is checked. A bucket
// that is not there is read as an empty one.
func OpenExisting(ctx context.Context, js jetstream.JetStream, bucket string) (*Bucket, error) {
	b := &Bucket{js: js, link: link.Of(js.Conn()), bucket: bucket, prefix: subjectPrefix + bucket + "."}
	b.direct = feed.NewDirect(js, b.Stream())
	_, err := js.Stream(ctx, b.Stream())
	if b.absent = errors.Is(err, jetstream.ErrStreamNotFound); err != nil && !b.absent {
		return nil, fmt.Errorf("open bucket %s: %w", bucket, err)
	}
	return b, nil
}

// mapped is a subject that a bucket listens on, as it is written from here. A server maps
// $JS.<domain>.API.$KV.> to $KV.> of that domain, and an account that imports JetStream imports
// <prefix>.$KV.> beside <prefix>.>: what the nats CLI and nats.go write to. $KV.> itself does not leave a
// domain.
func mapped(js jetstream.JetStream, subject string) string {
	if prefix := feed.Prefix(js); prefix != jetstream.DefaultAPIPrefix {
		return prefix + subject
	}
	return subject
}

// Patience is how long to wait for the bucket where it may take up to work to answer: that, and the way there
// and back.
func (b *Bucket) Patience(work time.Duration) time.Duration { return b.link.Patience(work) }

// writer is a handle to write with: how long a write waits for its acknowledgement is its property.
type writer struct {
	jetstream.JetStream
	wait time.Duration
}

// write is the handle whose writes wait long enough over the link as it is now. Where no round trip was
// measured, or it hardly counts, that is the one of before.
func (b *Bucket) write() (jetstream.JetStream, error) {
	now := writer{b.js, b.ackWait}
	if patient := b.patient.Load(); patient != nil {
		now = *patient
	}
	patience := b.link.Patience(b.ackWait)
	if b.link.RoundTrip() == 0 || patience <= now.wait+now.wait/4 {
		return now.JetStream, nil
	}
	wait := patience + patience/2
	js, err := withWriteWindow(b.js, wait)
	if err != nil {
		return nil, err
	}
	b.patient.Store(&writer{js, wait})
	return js, nil
}

// withWriteWindow makes a second handle on the same API prefix or domain, because how many writes may be in
// flight, and for how long, is a property of the handle.
func withWriteWindow(js jetstream.JetStream, ackWait time.Duration) (jetstream.JetStream, error) {
	opts := []jetstream.JetStreamOpt{jetstream.WithPublishAsyncMaxPending(writeAckWindow), jetstream.WithPublishAsyncTimeout(ackWait)}
	switch o := js.Options(); {
	case o.APIPrefix != "":
		return jetstream.NewWithAPIPrefix(js.Conn(), o.APIPrefix, opts...)
	case o.Domain != "":
		return jetstream.NewWithDomain(js.Conn(), o.Domain, opts...)
	default:
		return jetstream.New(js.Conn(), opts...)
	}
}

func (b *Bucket) create(ctx context.Context, cfg Config) (jetstream.Stream, error) {
	kv := jetstream.KeyValueConfig{
		Bucket:      b.bucket,
		Description: b.kind.description,
		History:     1,
		Replicas:    max(cfg.Replicas, 1),
	}
	if b.kind.markers {
		kv.LimitMarkerTTL = markerTTL
	}
	if to := b.kind.republishTo; to != "" {
		kv.RePublish = &jetstream.RePublish{Source: b.prefix + ">", Destination: to + ">"}
	}
	if cfg.Memory {
		kv.Storage = jetstream.MemoryStorage
	}
	kv.MaxBytes, kv.Compression, kv.Placement = cfg.Storage.MaxBytes, cfg.Storage.Compressed, cfg.Storage.Placement
	// Another instance may create it at the same moment: whoever is second finds it there.
	if _, err := b.js.CreateKeyValue(ctx, kv); err != nil && !errors.Is(err, jetstream.ErrBucketExists) {
		return nil, err
	}
	return feed.AwaitStream(ctx, b.js, b.Stream())
}

// Bucket is the bucket's name.
func (b *Bucket) Name() string { return b.bucket }

// Stream is the name of the JetStream stream behind the bucket.
func (b *Bucket) Stream() string { return streamPrefix + b.bucket }

// Subject is the stream subject of a key.
func (b *Bucket) Subject(key string) string { return b.prefix + key }

// Key is the key of a stream subject.
func (b *Bucket) Key(subject string) string { return strings.TrimPrefix(subject, b.prefix) }
