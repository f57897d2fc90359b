package emitter

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/event"
)

// One replica looks at the expected version before it looks at the id, three look at the id first.
func TestAppendAgainIsTheSameEventOnAnyNumberOfReplicas(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	cluster, err := testbed.StartNodes(t.Context(), 3, natsnode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Shutdown()
	nc, err := nats.Connect(cluster.URLs())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := cluster.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	for _, replicas := range []int{1, 3} {
		store := fmt.Sprintf("store %d", replicas)
		stream, err := OpenStream(ctx, js, StreamConfig{Store: store, Replicas: replicas})
		if err != nil {
			t.Fatal(err)
		}
		one := func(id, streamID, data string, expected int64) (uint64, error) {
			return Append(ctx, js, &event.Event{Store: store, Stream: streamID, Type: "t:v1", ID: id, Time: time.Now(), Data: []byte(data)}, expected)
		}
		for n, step := range []struct {
			id, stream, data string
			expected         int64
			sequence         uint64
			err              error
		}{
			{"x", "a", "1", 0, 1, nil},
			{"x", "a", "1", 0, 1, nil}, // again, as after an acknowledgement that was lost
			{"x", "a", "1", AnyVersion, 1, nil},
			{"y", "a", "2", 1, 2, nil},
			{"x", "a", "1", 0, 1, nil}, // others came after it
			{"y", "a", "2", 1, 2, nil},
			{"z", "a", "3", 1, 0, ErrWrongVersion},
			{"z", "a", "3", 0, 0, ErrWrongVersion},
			{"x", "b", "1", AnyVersion, 0, ErrOtherEvent},
			{"x", "b", "1", 0, 0, ErrOtherEvent},
			{"x", "a", "other data", AnyVersion, 0, ErrOtherEvent},
			{"z", "a", "3", 2, 3, nil},
		} {
			sequence, err := one(step.id, step.stream, step.data, step.expected)
			if sequence != step.sequence || !errors.Is(err, step.err) {
				t.Errorf("%d replicas, step %d: sequence %d, error %v; want %d, %v", replicas, n, sequence, err, step.sequence, step.err)
			}
		}
		info, err := stream.Info(ctx)
		if err != nil || info.State.Msgs != 3 {
			t.Errorf("%d replicas: %v messages, %v", replicas, info.State.Msgs, err)
		}
	}
}
