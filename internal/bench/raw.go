package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// raw is bare nats.go (and orbit's batched get) on a bucket like the registry's, with records like the
// registry's.
type raw struct {
	js        jetstream.JetStream
	kv        jetstream.KeyValue
	bucket    string
	subjects  []string
	revisions []uint64
	record    []byte
}

func newRaw(ctx context.Context, nc *nats.Conn, n, replicas int) (*raw, error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1<<14))
	if err != nil {
		return nil, err
	}
	r := &raw{js: js, bucket: fmt.Sprintf("bench_raw_%d", n)}
	r.kv, err = connect.Ask(ctx, func(ctx context.Context) (jetstream.KeyValue, error) {
		return js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: r.bucket, History: 1, Replicas: replicas, LimitMarkerTTL: time.Hour,
			RePublish: &jetstream.RePublish{Source: "$KV." + r.bucket + ".>", Destination: "bench.registry." + r.bucket + ".>"},
		})
	})
	if err != nil {
		return nil, err
	}
	subs := benchSubscriptions(n)
	r.revisions = make([]uint64, n)
	for _, s := range subs {
		r.subjects = append(r.subjects, "$KV."+r.bucket+"."+s.Key())
	}
	record := registration.Registration{
		Subscription: subs[n-1], Owner: registration.Owner{Name: "host-a", ID: "WqEm0C2sVpLQ1g3XKd0Zkb", Host: "host-a", PID: 4711}, Incarnation: 1,
		DeliverSubject: "exesdb.proxy.deliver.WqEm0C2sVpLQ1g3XKd0Zkb.17", Cause: registration.LeaderChanged, RegisteredAt: time.Now().UTC(),
	}
	r.record, err = record.Encode()
	return r, err
}

// benchSubscriptions are n subscriptions of one store.
func benchSubscriptions(n int) []subscription.Subscription {
	subs := make([]subscription.Subscription, n)
	for i := range subs {
		subs[i] = subscription.Subscription{
			Store: store, Type: subscription.ByEventType, Selector: "greenhouse_initialized:v1", Name: subscriptionName(i),
		}
	}
	return subs
}

func subscriptionName(i int) string { return fmt.Sprintf("subscription_%06d", i) }

// single times one put and one get, one after the other.
func (r *raw) single(ctx context.Context) (put, get time.Duration, err error) {
	start := time.Now()
	if _, err := r.kv.Put(ctx, "one", r.record); err != nil {
		return 0, 0, err
	}
	written := time.Now()
	if _, err := r.kv.Get(ctx, "one"); err != nil {
		return 0, 0, err
	}
	return written.Sub(start), time.Since(written), nil
}

// pipelined times conditional puts of every record, all in flight together, and reading every record back.
func (r *raw) pipelined(ctx context.Context) (put, read time.Duration, err error) {
	start := time.Now()
	const window = 10_000
	futures := make([]jetstream.PubAckFuture, 0, window)
	done := 0
	await := func() error {
		for _, f := range futures {
			select {
			case ack := <-f.Ok():
				r.revisions[done] = ack.Sequence
			case err := <-f.Err():
				return err
			}
			done++
		}
		futures = futures[:0]
		return nil
	}
	for i, subject := range r.subjects {
		m := &nats.Msg{Subject: subject, Data: r.record, Header: nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(r.revisions[i], 10)}}}
		f, err := r.js.PublishMsgAsync(m)
		if err != nil {
			return 0, 0, err
		}
		if futures = append(futures, f); len(futures) == window {
			if err := await(); err != nil {
				return 0, 0, err
			}
		}
	}
	if err := await(); err != nil {
		return 0, 0, err
	}
	put = time.Since(start)
	start = time.Now()
	if err := r.readBack(ctx); err != nil {
		return 0, 0, err
	}
	return put, time.Since(start), nil
}

// readBack reads with batched direct gets of 1,000 keys, the fastest that bare nats.go and orbit offer for
// given keys.
func (r *raw) readBack(ctx context.Context) error {
	read := 0
	for from := 0; from < len(r.subjects); from += kv.MaxGetLast {
		part := r.subjects[from:min(from+kv.MaxGetLast, len(r.subjects))]
		batch, err := jetstreamext.GetLastMsgsFor(ctx, r.js, "KV_"+r.bucket, part)
		if err != nil {
			return err
		}
		for _, err := range batch {
			if err != nil {
				return err
			}
			read++
		}
	}
	if read != len(r.subjects) {
		return errors.New("a replica lags; the baseline read back less than it wrote")
	}
	return nil
}
