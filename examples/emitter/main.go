// Command emitter sends the events of a store to whoever registered for them, by the contract in
// subjects.md and with nothing but nats.go. It is to be read, and to be the beginning of an emitter of your
// own.
//
// It does without an election ("Leases and checkpoints"): run one for a store, and no `subproxy emitter`
// beside it. Who starts it gives the term, and gives a higher one whenever another takes over.
//
// Of selectors ("Selectors") it knows by_stream and by_event_type; registrations of other types are
// skipped, with a line in the log. It sends no progress, which is what `lag` in a status comes from.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	server := flag.String("nats", nats.DefaultURL, "NATS server `URL`")
	store := flag.String("store", "", "the `STORE`, whose events are in stream EXESDB_<store>")
	term := flag.Uint64("term", 1, "`TERM` of this leader: higher than that of every emitter of the store before")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	nc, err := nats.Connect(*server, nats.MaxReconnects(-1), nats.Name("example emitter"))
	if err != nil {
		log.Fatal(err)
	}
	host, _ := os.Hostname()
	err = Run(ctx, nc, *store, host, *term)
	nc.Close()
	if err != nil {
		log.Fatal(err)
	}
}

// registration is what an emitter needs of a record ("Registrations").
type registration struct {
	Store          string `json:"store"`
	Type           string `json:"type"`
	Selector       string `json:"selector"`
	Name           string `json:"name"`
	StartVersion   int64  `json:"start_version"`
	DeliverSubject string `json:"deliver_subject"`
}

// emitter is the leader of one store's emitters.
type emitter struct {
	nc          *nats.Conn
	store, name string
	term        uint64
	epoch       string                  // which history the sequences are of
	events      jetstream.Stream        // the store
	checkpoints jetstream.KeyValue      // how far each subscription is
	fail        context.CancelCauseFunc // ends Run
}

// Run sends the store's events until ctx is done, and then returns nil, or until it can't go on, and then
// says why.
func Run(ctx context.Context, nc *nats.Conn, store, name string, term uint64) error {
	if store == "" {
		return errors.New("no store")
	}
	running, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	e := &emitter{nc: nc, store: store, name: name, term: term, fail: fail}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	// "Events": the stream's name. Its creation time is the epoch, as it is for subproxy's own emitter
	// ("Epochs").
	if e.events, err = js.Stream(ctx, "EXESDB_"+token(store)); err != nil {
		return fmt.Errorf("stream of store %s: %w", store, err)
	}
	e.epoch = strconv.FormatInt(e.events.CachedInfo().Created.UnixNano(), 10)
	// "Checkpoints": history 1 and direct get are what nats.go asks for anyway. A bucket that is there
	// already stays as it is.
	e.checkpoints, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "exesdb_checkpoints"})
	if errors.Is(err, jetstream.ErrBucketExists) {
		e.checkpoints, err = js.KeyValue(ctx, "exesdb_checkpoints")
	}
	if err != nil {
		return fmt.Errorf("checkpoints: %w", err)
	}
	// "Registrations": the bucket is subproxy's to create, so one runs before this does.
	registrations, err := js.KeyValue(ctx, "exesdb_subscriptions")
	if err != nil {
		return fmt.Errorf("registrations: %w", err)
	}
	watch, err := registrations.Watch(ctx, token(store)+".>")
	if err != nil {
		return fmt.Errorf("registrations: %w", err)
	}
	defer func() { _ = watch.Stop() }()
	// "Leases and checkpoints": a new leader publishes leader_changed with its term, and an emitter that
	// starts emitter.restarted ("Cluster events"). This one is both at once, and the first has every proxy
	// register again already.
	body, _ := json.Marshal(map[string]any{"store": store, "leader": name, "term": term, "reason": "emitter started"})
	if err := nc.Publish("exesdb.cluster.leader_changed", body); err != nil {
		return err
	}
	e.follow(running, watch.Updates())
	if cause := context.Cause(running); cause != nil && ctx.Err() == nil {
		return cause
	}
	return nil
}

// follow keeps a session for each registration ("Delivery", "What changes of a subscription mean"). Every
// revision of a record begins a new session, be it another start of the proxy or not: a session begins with
// a question, and the answer tells. Each has an inbox of its own, which ends with it: what a superseded
// proxy acknowledges is not heard ("Answers"). A deletion does not end it: what was accepted before may be
// acknowledged after.
func (e *emitter) follow(ctx context.Context, updates <-chan jetstream.KeyValueEntry) {
	sessions := map[string]serving{} // by key
	defer func() {
		var all sync.WaitGroup
		for _, s := range sessions {
			all.Go(s.end)
		}
		all.Wait()
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case entry, ok := <-updates:
			if !ok {
				e.fail(errors.New("the watch of the registrations has ended"))
				return
			}
			if entry == nil { // everything that was there already has been told
				continue
			}
			key := entry.Key()
			before, ok := sessions[key]
			if ok && entry.Operation() != jetstream.KeyValuePut { // released or expired: nothing is sent, the checkpoint stays
				before.pause()
				continue
			}
			if ok {
				before.end()
				delete(sessions, key)
			}
			if entry.Operation() != jetstream.KeyValuePut {
				continue
			}
			var r registration
			if err := json.Unmarshal(entry.Value(), &r); err != nil || r.Store != e.store || r.DeliverSubject == "" {
				log.Printf("%s: not a registration, skipped", key)
				continue
			}
			filter, ok := filter(r)
			if !ok {
				log.Printf("%s: this emitter does not know %s, skipped", key, r.Type)
				continue
			}
			running, cancel := context.WithCancel(ctx)
			deleted, done := make(chan struct{}), make(chan struct{})
			sessions[key] = serving{end: func() { cancel(); <-done }, pause: sync.OnceFunc(func() { close(deleted) })}
			go func() {
				defer close(done)
				s := &session{emitter: e, key: key, registration: r, filter: filter, inbox: e.nc.NewInbox(), deleted: deleted, pause: minPause}
				if err := s.run(running); err != nil {
					e.fail(fmt.Errorf("%s: %w", key, err))
				}
			}()
		}
	}
}

// serving is a session that runs.
type serving struct {
	pause func() // its record is deleted: nothing more is sent, and acknowledgements go on to count
	end   func() // returns when its checkpoint is written
}

// filter is the tail of the subjects of the events that a registration wants ("Selectors").
func filter(r registration) (tail string, ok bool) {
	switch {
	case r.Type == "by_stream" && r.Selector == "$all":
		return token(r.Store) + ".>", true
	case r.Type == "by_stream":
		return token(r.Store) + "." + token(r.Selector) + ".*", true
	case r.Type == "by_event_type":
		return token(r.Store) + ".*." + token(r.Selector), true
	}
	return "", false
}

// token makes a name one token of a subject or key ("Names as tokens").
func token(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		if c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

// untoken is the reverse of token. In a URL's escapes % stands where = does here.
func untoken(token string) string {
	if name, err := url.PathUnescape(strings.ReplaceAll(token, "=", "%")); err == nil {
		return name
	}
	return token
}

// checkpoint is the record of "Checkpoints".
type checkpoint struct {
	Seq       uint64    `json:"seq"`
	Term      uint64    `json:"term"`
	Emitter   string    `json:"emitter"`
	Epoch     string    `json:"epoch"`
	UpdatedAt time.Time `json:"updated_at"`
}
