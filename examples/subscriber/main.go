// Command subscriber takes the events of a subscription with sink `request`, by the contract in subjects.md
// ("Forwarding", "Fencing") and with nothing but nats.go. It is to be read, and to be the beginning of a
// subscriber of your own.
//
// Its work is to count events by type. How far it is stands in the same record of a KV bucket as the
// counts, written with them by one conditional write: so neither can be there without the other, an event
// that comes again is not counted again, after a restart neither, and of several subscribers on one
// subject, which share its events, none writes over another. In memory both would be gone together too; but
// then an instance that was superseded before the restart could be believed after it.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/url"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	server := flag.String("nats", nats.DefaultURL, "NATS server `URL`")
	subject := flag.String("subject", "", "the `SUBJECT` that is forward.subject of one subscription or more")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	nc, err := nats.Connect(*server, nats.MaxReconnects(-1), nats.Name("example subscriber"))
	if err != nil {
		log.Fatal(err)
	}
	err = Run(ctx, nc, *subject)
	nc.Close()
	if err != nil {
		log.Fatal(err)
	}
}

// bucket holds a record for each subject.
const bucket = "example_subscriber"

// patience bounds one event: the proxy waits forward.timeout, 5 s by default, before it sends it again.
const (
	patience = 2 * time.Second
	pause    = 10 * time.Millisecond // between tries
)

// Run takes what comes on the subject until ctx is done.
func Run(ctx context.Context, nc *nats.Conn, subject string) error {
	if subject == "" {
		return errors.New("no subject")
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	records, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: bucket})
	if err != nil {
		return fmt.Errorf("bucket %s: %w", bucket, err)
	}
	s := &subscriber{records: records, key: token(subject)}
	// In a queue group, so that each event comes to one of those that listen.
	sub, err := nc.QueueSubscribe(subject, bucket, s.receive)
	if err != nil {
		return err
	}
	log.Printf("takes events on %s", subject)
	<-ctx.Done()
	return sub.Drain()
}

type subscriber struct {
	records jetstream.KeyValue
	key     string
}

// receive answers an event ("Forwarding", what a subscriber of request replies). Where it can't, it says
// nothing: the proxy sends the event again, for as long as it takes, and that is not counted as a refusal.
func (s *subscriber) receive(m *nats.Msg) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		answer, err := s.take(ctx, m.Header)
		switch {
		case err == nil:
			if answer != accepted {
				log.Printf("event %s of incarnation %s: %s", m.Header.Get("Exesdb-Seq"), m.Header.Get("Exesdb-Incarnation"), answer)
			}
			_ = m.Respond([]byte(answer)) // what is lost is asked again
			return
		case ctx.Err() != nil:
			log.Printf("event %s: %v", m.Header.Get("Exesdb-Seq"), err)
			return
		}
		time.Sleep(pause) // another one wrote meanwhile, or it was this one and the acknowledgement is lost: the record tells
	}
}

// take reads the record, does the event's work on it, and writes it on the condition that nobody else did.
func (s *subscriber) take(ctx context.Context, header nats.Header) (answer string, err error) {
	var r record
	entry, err := s.records.Get(ctx, s.key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
	case err != nil:
		return "", err
	default:
		if err := json.Unmarshal(entry.Value(), &r); err != nil {
			return "", err
		}
	}
	answer, changed := r.take(header)
	if !changed {
		return answer, nil
	}
	body, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	if entry == nil {
		_, err = s.records.Create(ctx, s.key, body)
	} else {
		_, err = s.records.Update(ctx, s.key, body, entry.Revision())
	}
	return answer, err
}

// record is the work, and how far it is with each subscription, by its key: one with another selector is
// another subscription.
type record struct {
	Places map[string]place `json:"places"`
	Counts map[string]int   `json:"counts"` // by event type
}

// place is how far it is with one subscription.
type place struct {
	Incarnation uint64 `json:"incarnation"` // the highest that an event was accepted from
	Seq         uint64 `json:"seq"`         // of the event accepted last
}

const accepted = "+ACK"

// take decides about an event ("Fencing"), and does its work where that is to be done.
func (r *record) take(header nats.Header) (answer string, changed bool) {
	// Attributes are percent-encoded ("Events").
	kind, err := url.PathUnescape(header.Get("ce-type"))
	if kind == "" || err != nil {
		return "+TERM no ce-type", false // it would be refused again: parked at once
	}
	if header.Get("Exesdb-Incarnation") == "" {
		// Replayed by hand after it was parked: it comes from no proxy, and after events that come after
		// it.
		r.count(kind)
		return accepted, true
	}
	incarnation, err1 := strconv.ParseUint(header.Get("Exesdb-Incarnation"), 10, 64)
	seq, err2 := strconv.ParseUint(header.Get("Exesdb-Seq"), 10, 64)
	subscription := header.Get("Exesdb-Subscription")
	at := r.Places[subscription]
	switch {
	case cmp.Or(err1, err2) != nil:
		return "-ERR " + cmp.Or(err1, err2).Error(), false
	case incarnation < at.Incarnation:
		// Whoever sends this was superseded, and may not know it yet.
		return fmt.Sprintf("-ERR superseded %d", at.Incarnation), false
	case seq <= at.Seq && incarnation == at.Incarnation:
		// It was done, and the acknowledgement is lost.
		return accepted, false
	case seq <= at.Seq:
		// It was done, and a proxy died before it could pass that on.
		seq = at.Seq
	default:
		r.count(kind)
	}
	if r.Places == nil {
		r.Places = map[string]place{}
	}
	r.Places[subscription] = place{incarnation, seq}
	return accepted, true
}

func (r *record) count(kind string) {
	if r.Counts == nil {
		r.Counts = map[string]int{}
	}
	r.Counts[kind]++
}

// token makes a name one token of a key ("Names as tokens").
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
