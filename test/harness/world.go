//go:build unix

package harness

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// World is NATS, and a client on it.
type World struct {
	testing.TB
	URL  string // of the servers, comma-separated
	NC   *nats.Conn
	JS   jetstream.JetStream
	opts []nats.Option // of every connection

	failed chan error // what runs beside the test and could not go on; holds one

	mu   sync.Mutex
	all  []*nats.Msg          // heard, in the order in which it was said
	last map[string]*nats.Msg // of these, by subject
}

// Listen is a World whose client hears everything said below exesdb.>.
func Listen(t testing.TB, url string, opts ...nats.Option) *World {
	t.Helper()
	w := Connect(t, url, opts...)
	sub, err := w.NC.Subscribe("exesdb.>", w.hear)
	if err == nil {
		err = errors.Join(sub.SetPendingLimits(-1, -1), w.NC.Flush())
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// Connect is a World whose client hears nothing by itself.
func Connect(t testing.TB, url string, opts ...nats.Option) *World {
	t.Helper()
	w := &World{TB: t, URL: url, opts: opts, failed: make(chan error, 1), last: map[string]*nats.Msg{}}
	w.NC, w.JS = w.Connect()
	return w
}

// Connect connects to all servers, for as long as the test runs.
func (w *World) Connect() (*nats.Conn, jetstream.JetStream) {
	w.Helper()
	nc, err := nats.Connect(w.URL, append([]nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond), nats.ReconnectJitter(0, 0)}, w.opts...)...)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		w.Fatal(err)
	}
	return nc, js
}

// GiveUp ends the test for what runs beside it, where it waits.
func (w *World) GiveUp(err error) {
	select {
	case w.failed <- err:
	default:
	}
}

func (w *World) hear(m *nats.Msg) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[m.Subject] = m
	w.all = append(w.all, m)
}

// Heard is everything heard so far on subjects that begin so.
func (w *World) Heard(prefix string) []*nats.Msg {
	w.Helper()
	w.Level()
	w.mu.Lock()
	defer w.mu.Unlock()
	var ms []*nats.Msg
	for _, m := range w.all {
		if strings.HasPrefix(m.Subject, prefix) {
			ms = append(ms, m)
		}
	}
	return ms
}

// Latest is the last message on a subject, or nil.
func (w *World) Latest(subject string) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.last[subject]; m != nil {
		return m.Data
	}
	return nil
}

// Level returns when everything that the server had to pass on before was heard.
func (w *World) Level() {
	w.Helper()
	mark := "exesdb.test.level." + nuid.Next()
	w.Publish(mark, "")
	w.Eventually("hear a message of its own", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.last[mark] != nil
	})
}

// Publish publishes a message, and does not wait for the server.
func (w *World) Publish(subject, body string) {
	w.Helper()
	if err := w.NC.Publish(subject, []byte(body)); err != nil {
		w.Fatal(err)
	}
}

// Check ends the test where something beside it could not go on.
func (w *World) Check() {
	w.Helper()
	select {
	case err := <-w.failed:
		w.Fatal(err)
	default:
	}
}

// Eventually waits until a condition holds.
func (w *World) Eventually(what string, ok func() bool) {
	w.Helper()
	for deadline := time.Now().Add(Patience); !ok(); time.Sleep(3 * time.Millisecond) {
		w.Check()
		if time.Now().After(deadline) {
			w.Fatalf("not within %s: %s", Patience, what)
		}
	}
}

// Record is what the bucket holds under the key now, as its leader says: no replica that lags answers.
func (w *World) Record(key string) (r Record, ok bool) {
	data, revision := w.LeaderGet(BucketStream, "$KV."+Bucket+"."+key)
	r.Revision = revision
	return r, len(data) > 0 && json.Unmarshal(data, &r) == nil
}

// LeaderGet reads the last message of a subject from its stream's leader; nil: there is none, or nobody
// answers.
func (w *World) LeaderGet(stream, subject string) (data []byte, sequence uint64) {
	request, _ := json.Marshal(map[string]string{"last_by_subj": subject})
	m, err := w.NC.Request("$JS.API.STREAM.MSG.GET."+stream, request, 2*time.Second)
	if err != nil {
		return nil, 0
	}
	var answer struct {
		Message struct {
			Seq  uint64 `json:"seq"`
			Data []byte `json:"data"`
		} `json:"message"`
	}
	if json.Unmarshal(m.Data, &answer) != nil {
		return nil, 0
	}
	return answer.Message.Data, answer.Message.Seq
}

// Await returns the record under the key once it is as wanted.
func (w *World) Await(key, what string, as func(Record) bool) (r Record) {
	w.Helper()
	var ok bool
	defer func() {
		if w.Failed() {
			w.Logf("the bucket holds under %s: %t %+v", key, ok, r)
		}
	}()
	w.Eventually(key+" "+what, func() bool {
		r, ok = w.Record(key)
		return ok && as(r)
	})
	return r
}

// status is what was said last about a subscription; tokens is <store>.<name>.
func (w *World) status(tokens string) (s Status, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.last["exesdb.proxy.status."+tokens]; m != nil {
		return Decode[Status](w, m.Data), true
	}
	return Status{}, false
}

// AwaitStatus returns the status that was said last of a subscription once it is as wanted.
func (w *World) AwaitStatus(tokens, what string, as func(Status) bool) (s Status) {
	w.Helper()
	defer func() {
		if w.Failed() {
			w.Logf("last status of %s: %+v", tokens, s)
		}
	}()
	w.Eventually("status of "+tokens+": "+what, func() bool {
		var ok bool
		s, ok = w.status(tokens)
		return ok && as(s)
	})
	return s
}

// Alerts are all that were heard so far.
func (w *World) Alerts() (alerts []Alert) {
	w.Helper()
	for _, m := range w.Heard("exesdb.proxy.alert.") {
		alerts = append(alerts, Decode[Alert](w, m.Data))
	}
	return alerts
}

// Writes is every revision of the bucket so far.
func (w *World) Writes() (all []Write) {
	w.Helper()
	for _, m := range w.Heard("exesdb.registry.") {
		revision, _ := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
		one := Write{Key: strings.TrimPrefix(m.Subject, "exesdb.registry."), Revision: revision, Removed: len(m.Data) == 0}
		if json.Unmarshal(m.Data, &one.Record) != nil {
			one.Record = Record{}
		}
		all = append(all, one)
	}
	return all
}

// BucketKV is the bucket as a person with the nats command has it.
func (w *World) BucketKV() jetstream.KeyValue {
	w.Helper()
	kv, err := w.JS.KeyValue(w.Context(), Bucket)
	if err != nil {
		w.Fatal(err)
	}
	return kv
}

// Stream is the bucket as a stream.
func (w *World) Stream() jetstream.Stream {
	w.Helper()
	s, err := w.JS.Stream(w.Context(), BucketStream)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// Put writes by hand and returns the revision.
func (w *World) Put(key, value string, headers ...string) uint64 {
	w.Helper()
	m := nats.NewMsg("$KV." + Bucket + "." + key)
	m.Data = []byte(value)
	for n := 0; n < len(headers); n += 2 {
		m.Header.Set(headers[n], headers[n+1])
	}
	ack, err := w.JS.PublishMsg(w.Context(), m)
	if err != nil {
		w.Fatal(err)
	}
	return ack.Sequence
}

// Records is everything that the bucket holds, read from the stream.
func (w *World) Records() map[string]Record {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 10*time.Second)
	defer cancel()
	found := map[string]Record{}
	kv, err := w.JS.KeyValue(ctx, Bucket)
	if err != nil {
		return found
	}
	watch, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return found
	}
	defer func() { _ = watch.Stop() }()
	for {
		select {
		case entry, open := <-watch.Updates():
			if !open || entry == nil {
				return found
			}
			r := Decode[Record](w, entry.Value())
			r.Revision = entry.Revision()
			found[entry.Key()] = r
		case <-ctx.Done():
			return found
		}
	}
}
