package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	window    = 256                    // events in flight to one subscription, at most ("Sending")
	patience  = time.Second            // nothing acknowledged for so long: ask ("Questions")
	saveEvery = 250 * time.Millisecond // a few times a second at the most ("Checkpoints")
	minPause  = 250 * time.Millisecond // where nobody listens, ask again after this ("Questions"),
	maxPause  = 10 * time.Second       // then less often, up to this
)

var errStaleTerm = errors.New("stale_term: the proxy knows of a later leader")

// session is one revision of a registration being served.
type session struct {
	*emitter
	registration
	key, filter, inbox string

	taken    uint64   // what the proxy took last: Exesdb-Prev of the next event
	read     uint64   // the next event is the first wanted one after this: taken, or the position where that is higher
	acked    uint64   // every wanted event up to here was acknowledged
	inFlight []uint64 // sent and not acknowledged

	deleted <-chan struct{} // closed when the record is deleted
	over    bool            // it was

	ready bool // the proxy has said what it took last, so that events can be sent
	asked bool // a question is out
	ask   *time.Timer
	pause time.Duration // until the next question, where nobody listens

	dirty    bool   // acked is not in the bucket yet
	revision uint64 // of the checkpoint in the bucket; 0: there is none
}

// run serves the registration until ctx is done. An error is one that the whole emitter ends with.
func (s *session) run(ctx context.Context) error {
	if err := s.load(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	// "Sending": each event has a reply subject. One inbox for all will do, as answers name the sequence
	// that they mean.
	answers := make(chan *nats.Msg, 4*window) // an answer that finds it full is lost, which a question makes up for
	replies, err := s.nc.ChanSubscribe(s.inbox, answers)
	if err != nil {
		return err
	}
	defer func() { _ = replies.Unsubscribe() }()
	// "Events": JetStream tells of each event once it is stored.
	stored := make(chan struct{}, 1)
	news, err := s.nc.Subscribe("exesdb.stored."+s.filter, func(*nats.Msg) {
		select {
		case stored <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return err
	}
	defer func() { _ = news.Unsubscribe() }()

	s.ask = time.NewTimer(0) // a session begins with a question
	defer s.ask.Stop()
	save := time.NewTicker(saveEvery)
	defer save.Stop()
	at := make(chan struct{})
	close(at)
	for {
		var once chan struct{} // at once, while there is more to send
		if s.ready && len(s.inFlight) < window {
			if more, err := s.send(ctx); err != nil && ctx.Err() == nil {
				log.Printf("%s: %v", s.key, err) // no NATS perhaps: s.ask tries again
			} else if more {
				once = at
			}
		}
		select {
		case <-once:
		case <-stored:
		case m := <-answers:
			if err := s.answer(m); err != nil {
				return errors.Join(err, s.save())
			}
		case <-s.ask.C:
			s.question()
		case <-s.deleted:
			s.deleted, s.over, s.ready, s.asked = nil, true, false, false
			s.ask.Stop()
		case <-save.C:
			if err := s.save(); err != nil {
				return err
			}
		case <-ctx.Done():
			return s.save()
		}
	}
}

// send sends the next event ("Sending"), and says whether there was one.
func (s *session) send(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// The first event from a sequence on with a subject that fits. A consumer would be faster, and would
	// have to be put back at every -NAK.
	event, err := s.get(ctx, s.events.CachedInfo().Config.Name, wanted{Seq: s.read + 1, NextFor: "exesdb.events." + s.filter})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if event.Header.Get("Nats-Marker-Reason") != "" || event.Header.Get("Nats-Schedule") != "" { // no event ("Events")
		s.read = event.Sequence
		return true, nil
	}
	h := headers(s.store, event)
	h.Set("Exesdb-Prev", strconv.FormatUint(s.taken, 10))
	if err := s.publish(event.Sequence, h, event.Data); err != nil {
		return false, err
	}
	s.taken, s.read = event.Sequence, event.Sequence
	s.inFlight = append(s.inFlight, event.Sequence)
	if len(s.inFlight) == 1 {
		s.ask.Reset(patience)
	}
	return true, nil
}

// headers are the event's own, all CloudEvents attributes among them ("Events", the last column). What
// JetStream added, or the append asked of it, is not the event's.
func headers(store string, event *jetstream.RawStreamMsg) nats.Header {
	h := nats.Header{}
	if event.Header != nil {
		h = maps.Clone(event.Header)
	}
	maps.DeleteFunc(h, func(k string, _ []string) bool { return strings.HasPrefix(k, "Nats-") })
	missing := func(k, v string) {
		if h.Get(k) == "" {
			h.Set(k, v)
		}
	}
	at := strings.Split(event.Subject, ".") // exesdb.events.<store>.<stream id>.<event type>
	missing("ce-specversion", "1.0")
	missing("ce-id", fmt.Sprintf("%s/%d", store, event.Sequence))
	for i := range at {
		at[i] = untoken(at[i])
	}
	missing("ce-subject", percentEncode(at[3]))
	missing("ce-type", percentEncode(strings.Join(at[4:], "."))) // a type with dots that its publisher did not encode
	missing("ce-source", "exesdb/"+store)
	missing("ce-time", event.Time.UTC().Format(time.RFC3339Nano))
	return h
}

// percentEncode writes an attribute's value as a header has it.
func percentEncode(value string) string {
	var b strings.Builder
	for _, c := range []byte(value) {
		if c > ' ' && c <= '~' && c != '"' && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// question asks what the proxy took last ("Questions"), unless everything sent was acknowledged. Nothing is
// sent until it has answered, so that the answer is about everything sent.
func (s *session) question() {
	s.ask.Reset(patience)
	if s.ready && s.taken <= s.acked {
		return
	}
	s.ready, s.asked = false, s.publish(0, nats.Header{"Exesdb-Epoch": {s.epoch}}, nil) == nil
}

func (s *session) publish(seq uint64, h nats.Header, data []byte) error {
	h.Set("Exesdb-Seq", strconv.FormatUint(seq, 10))
	h.Set("Exesdb-Term", strconv.FormatUint(s.term, 10))
	return s.nc.PublishMsg(&nats.Msg{Subject: s.DeliverSubject, Reply: s.inbox, Header: h, Data: data})
}

// answer does what "What an emitter does" says of answers. An error ends the emitter.
func (s *session) answer(m *nats.Msg) error {
	var n uint64
	says := func(format string) bool {
		_, err := fmt.Sscanf(string(m.Data), format, &n)
		return err == nil
	}
	switch {
	case s.over && !says("+ACK %d"):
	case m.Header.Get("Status") == "503", string(m.Data) == "-ERR gone":
		s.hold()
	case says("+ACK %d"):
		if n <= s.acked { // cumulative: an older one says nothing
			return nil
		}
		s.acked, s.dirty, s.read = n, true, max(s.read, n)
		for len(s.inFlight) > 0 && s.inFlight[0] <= n {
			s.inFlight = s.inFlight[1:]
		}
		if s.ready {
			s.ask.Reset(patience)
		}
	case says("-NAK %d"):
		// What comes after n is sent again, with n as Exesdb-Prev. But nothing at or below the checkpoint:
		// a proxy that has just started has taken nothing (0), and wants what comes after the checkpoint.
		for i := len(s.inFlight); i > 0 && s.inFlight[i-1] > n; i-- {
			s.inFlight = s.inFlight[:i-1]
		}
		s.taken, s.read = n, max(n, s.acked)
		s.ready, s.asked, s.pause = true, false, minPause
		s.ask.Reset(patience)
	case says("-ERR stale_term %d"):
		return fmt.Errorf("%w: %d, and this is %d", errStaleTerm, n, s.term)
	default: // -ERR malformed
		return fmt.Errorf("the proxy answers %q", m.Data)
	}
	return nil
}

// hold is for a deliver subject that nobody listens on: nothing is dropped, and the checkpoint stays ("What
// an emitter does"). A newer revision of the registration ends the session and so the holding. Each event
// in flight gets its 503, and only the first counts.
func (s *session) hold() {
	if !s.ready && !s.asked {
		return
	}
	s.ready, s.asked = false, false
	s.ask.Reset(s.pause)
	s.pause = min(2*s.pause, maxPause)
}

// load finds where the subscription goes on: at its checkpoint or, without one of this stream, where
// start_version says ("Registrations", "Checkpoints").
func (s *session) load(ctx context.Context) error {
	data, revision, err := s.checkpointOf(ctx, s.key)
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return err
	}
	if err == nil {
		var c checkpoint
		s.revision = revision
		if err := json.Unmarshal(data, &c); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		if c.Epoch == s.epoch {
			s.acked = c.Seq
			return nil
		}
	}
	switch {
	case s.StartVersion > 0:
		s.acked = uint64(s.StartVersion) - 1
	case s.StartVersion < 0:
		info, err := s.events.Info(ctx)
		if err != nil {
			return err
		}
		// Saved at once: who comes after a restart must not skip what was stored meanwhile.
		s.acked, s.dirty = info.State.LastSeq, true
		return s.save()
	}
	return nil
}

// save writes the checkpoint where it moved, on the condition that nobody else did ("Checkpoints").
func (s *session) save() error {
	if !s.dirty {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience) // also while the emitter stops
	defer cancel()
	body, err := json.Marshal(checkpoint{s.acked, s.term, s.name, s.epoch, time.Now().UTC()})
	if err != nil {
		return err
	}
	var revision uint64
	if s.revision == 0 {
		revision, err = s.checkpoints.Create(ctx, s.key, body) // on the marker's revision, where one was deleted
	} else {
		revision, err = s.checkpoints.Update(ctx, s.key, body, s.revision)
	}
	if err == nil {
		s.dirty, s.revision = false, revision
		return nil
	}
	// Who wrote instead? A later leader: stop. Else it is a write of its own whose acknowledgement was
	// lost, or an older emitter's, or it was deleted: the next tick writes over that.
	var c checkpoint
	data, revision, err := s.checkpointOf(ctx, s.key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		s.revision = 0
	case err != nil:
		log.Printf("%s: checkpoint: %v", s.key, err) // no NATS perhaps
	case json.Unmarshal(data, &c) == nil && c.Term > s.term:
		return fmt.Errorf("%w: %d has written the checkpoint, and this is %d", errStaleTerm, c.Term, s.term)
	default:
		s.revision = revision
	}
	return nil
}
