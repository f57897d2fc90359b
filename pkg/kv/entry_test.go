package kv

import (
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

func TestOperationIsReadFromTheHeaders(t *testing.T) {
	b := &Bucket{prefix: "$KV.b."}
	at := time.Unix(1, 0)
	for _, c := range []struct {
		header nats.Header
		want   Operation
		name   string
	}{
		{nil, Put, "put"},
		{nats.Header{"Nats-Expected-Last-Subject-Sequence": {"0"}}, Put, "put"},
		{nats.Header{"KV-Operation": {"PUT"}}, Put, "put"},
		{nats.Header{"KV-Operation": {"DEL"}}, Deleted, "deleted"},
		{nats.Header{"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}}, Deleted, "deleted"},
		{nats.Header{"Nats-Marker-Reason": {"MaxAge"}, "Nats-TTL": {"1h"}}, Expired, "expired"},
		{nats.Header{"Nats-Marker-Reason": {"Purge"}}, Deleted, "deleted"},
		{nats.Header{"Nats-Marker-Reason": {"Remove"}}, Deleted, "deleted"},
		{nats.Header{"Nats-Marker-Reason": {}}, Put, "put"},
		{nats.Header{"Exesdb-Incarnation": {"3"}}, Put, "put"},
		{nats.Header{"KV-Operation": {"DEL"}, "Exesdb-Incarnation": {"many"}}, Deleted, "deleted"},
	} {
		e := b.NewEntry("$KV.b.s.by_stream.x.n", 7, c.header, []byte("d"), at)
		if want := (Entry{Key: "s.by_stream.x.n", Revision: 7, Operation: c.want, Data: []byte("d"), Time: at}); !reflect.DeepEqual(e, want) || e.Operation.String() != c.name {
			t.Errorf("%v: got %+v", c.header, e)
		}
	}
}
