package lease

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/kv"
)

// Keeper keeps a record of one run under a key: the rules that elections and sessions have in common. It is
// a value that does no I/O; one request at a time is made for it, and answered by an input.
//
// What makes it safe is that each write is conditional on the revision it was decided on. Time only says
// when to try.
//
// Its owner steps it with what happened, looks at the Outcome, and says what is to be done next (Keep,
// Read, Delete) once the keeper is Ready.
type Keeper[R any] struct {
	Observation   // what was last seen of the key
	Record      R // what is there: Present the record, else what decode makes of the marker

	key    string
	ttl    time.Duration
	decode func(*kv.Entry) (R, error)
	jitter func() float64

	request   request[R] // under way
	changed   bool       // the record is to be written before its renewal is due
	renewed   time.Time  // when the last write that was acknowledged was sent
	renewAt   time.Time
	notBefore time.Time // pause after a failure
	conflicts int       // in a row
}

// NewKeeper makes a keeper that has not read its key yet. Decode reads an entry: a record or a marker; what
// it can't read belongs to nobody. Rand is from 0 to 1.
func NewKeeper[R any](
	key string, ttl time.Duration, decode func(*kv.Entry) (R, error), jitter func() float64,
) Keeper[R] {
	return Keeper[R]{key: key, ttl: ttl, decode: decode, jitter: jitter}
}

// request is the one that is under way.
type request[R any] struct {
	is     operation
	on     uint64 // the revision that a write is conditional on
	record R      // that is written
	sent   time.Time
}

type operation uint8

const (
	none operation = iota
	reading
	writing
	deleting
)

// Outcome is what an input means for the record.
type Outcome uint8

// The outcomes.
const (
	Unchanged Outcome = iota // it means nothing
	Observed                 // something else is under the key: State and Record say what
	Written                  // what was to be written is under the key: Record
	// Overtaken: a write was acknowledged, but since then the bucket was lost or has something newer. What
	// is there now decides.
	Overtaken
	Refused // a write or deletion was refused: the key is not at the revision that it was conditional on
	Failed  // a request failed; whether a write happened is not known
)

// Step notes what happened, and says what it means for the record.
func (k *Keeper[R]) Step(in Input, now time.Time, fx *Effects) Outcome {
	switch in.Kind {
	case EntryHeard:
		if in.Entry.Revision <= k.Revision {
			return Unchanged
		}
		k.notBefore, k.conflicts = time.Time{}, 0 // the bucket lives
		return k.observe(&in.Entry, now, fx)
	case KeysTrimmed:
		if k.Revision > 0 && k.Revision < in.Revision {
			k.forget()
		}
	case BucketReplaced:
		k.forget()
	case Answered:
		return k.answer(in, now, fx)
	}
	return Unchanged
}

// forget has the key read before anything else is decided. What was seen of it does not count.
func (k *Keeper[R]) forget() {
	var nothing R
	k.Observation, k.Record = Observation{}, nothing
}

// observe notes an entry.
func (k *Keeper[R]) observe(e *kv.Entry, now time.Time, fx *Effects) Outcome {
	o := Observe(e, k.State, now)
	record, err := k.decode(e)
	if err != nil {
		o.State, fx.Failed = Absent, err
	}
	k.Observation, k.Record = o, record
	return Observed
}

// observeAbsent notes that there is no record; 0: not even a marker.
func (k *Keeper[R]) observeAbsent(revision uint64, now time.Time) Outcome {
	k.forget()
	k.State, k.Revision, k.Heard = Absent, revision, now
	return Observed
}

func (k *Keeper[R]) answer(in Input, now time.Time, fx *Effects) Outcome {
	r := k.request
	k.request = request[R]{}
	switch {
	case in.Err != nil:
		return k.fail(&r, in.Err, now, fx)
	case r.is == reading:
		switch k.Compare(r.sent, in.Found, in.Entry.Revision) {
		case Same:
			k.Silent = now
		case Newer:
			return k.observe(&in.Entry, now, fx)
		case Missing:
			return k.observeAbsent(0, now)
		}
	case r.is == deleting:
		if in.Revision > k.Revision && k.State != Unknown {
			return k.observeAbsent(in.Revision, now)
		}
	case r.is == writing:
		k.conflicts, k.renewed, k.renewAt = 0, r.sent, r.sent.Add(renewIn(k.ttl, k.jitter))
		if k.State == Unknown || in.Revision < k.Revision {
			k.changed = true
			return Overtaken
		}
		k.Observation, k.Record = Observation{State: Present, Revision: in.Revision, Heard: now}, r.record
		return Written
	}
	return Unchanged
}

func (k *Keeper[R]) fail(r *request[R], err error, now time.Time, fx *Effects) Outcome {
	k.changed = k.changed || r.is == writing
	retry := now.Add(RetryIn(k.ttl, k.jitter))
	if errors.Is(err, kv.ErrConflict) {
		if k.Revision == r.on {
			k.Recheck()
		}
		// A first conflict is how a race is lost. A second one, with nothing heard in between, is a bucket
		// that answers in two ways.
		if k.conflicts++; k.conflicts > 1 {
			k.notBefore = retry
		}
		return Refused
	}
	k.notBefore = retry
	k.Silent = time.Time{} // nobody can renew either: the grace begins again
	fx.Failed, fx.Ensure = err, isGone(err)
	return Failed
}

// isGone reports whether a request failed because the bucket is not there.
func isGone(err error) bool {
	for _, gone := range []error{
		kv.ErrNoStream, nats.ErrNoResponders, nats.ErrStreamNotFound,
		jetstream.ErrStreamNotFound, jetstream.ErrNoStreamResponse,
	} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// Recheck has the key read before anything else is decided.
func (k *Keeper[R]) Recheck() { k.State = Unknown }

// Change has the record written before its renewal is due.
func (k *Keeper[R]) Change() { k.changed = true }

// Hurry ends a pause after a failure.
func (k *Keeper[R]) Hurry() { k.notBefore = time.Time{} }

// Busy reports whether a request is under way, whose answer is the next step.
func (k *Keeper[R]) Busy() bool { return k.request.is != none }

// Settled reports whether the record that was written last needs no other write before its renewal.
func (k *Keeper[R]) Settled() bool { return !k.changed && !k.Busy() }

// Renewed is when the last write that was acknowledged was sent.
func (k *Keeper[R]) Renewed() time.Time { return k.renewed }

// Ready reports whether it is time to decide about the key, and what it holds is known. If not, it asks for
// what is missing.
func (k *Keeper[R]) Ready(now time.Time, fx *Effects) bool {
	switch {
	case k.Busy():
	case now.Before(k.notBefore):
		fx.Next = k.notBefore
	case k.State == Unknown:
		k.Read(now, fx)
	default:
		return true
	}
	return false
}

// Read asks the bucket's leader what is under the key.
func (k *Keeper[R]) Read(now time.Time, fx *Effects) {
	k.request = request[R]{is: reading, sent: now}
	fx.Read = k.key
}

// Keep writes the record where another stands or none does, where it was changed, and where its renewal is
// due.
func (k *Keeper[R]) Keep(record R, stands bool, now time.Time, fx *Effects) {
	if stands && !k.changed && now.Before(k.renewAt) {
		fx.Next = k.renewAt
		return
	}
	data, err := json.Marshal(record)
	if err != nil { // strings and numbers: it can't
		fx.Failed, fx.Next = fmt.Errorf("encode the record of %s: %w", k.key, err), now.Add(maxRetry)
		return
	}
	k.request = request[R]{is: writing, on: k.Revision, record: record, sent: now}
	k.changed = false
	fx.Write = &kv.Write{Key: k.key, Data: data, Revision: k.Revision, TTL: BucketTTL(k.ttl)}
}

// Delete gives the record back. The marker says the term; 0: none.
func (k *Keeper[R]) Delete(term uint64, now time.Time, fx *Effects) {
	k.request = request[R]{is: deleting, on: k.Revision, sent: now}
	fx.Write = &kv.Write{Key: k.key, Revision: k.Revision, Term: term}
}
