package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
)

// sessionRules is one run of an instance holding its session: the rules. It is a value that does no I/O; one request at a time is
// made for it, answered by an input.
//
// Two runs of one name are told apart by the incarnation of their records, which a run chooses when it first writes and
// keeps: one above the record it replaces, or above the revision of the marker that it finds in place of one. An
// incarnation is so never above the revision it was first written with, and that of a later run is above it, whether or
// not there was a record in between. Whoever finds a record with another id that is not below its own is superseded, and
// writes nothing any more; of two that chose the same, the one in the bucket won. Whatever else it finds it writes over.
type sessionRules struct {
	key  string
	ttl  time.Duration
	rand func() float64 // in [0, 1)

	mine   Member // what the bucket should hold
	view   observation
	flight lease.InFlight[Member]

	claimed   bool // mine has its incarnation, and may have been written
	changed   bool // mine is to be written now
	closing   bool
	by        *Member // who superseded this run
	renewAt   time.Time
	notBefore time.Time // pause after a failure
	conflicts int       // in a row
}

// observation is what is known of a session's key.
type observation struct {
	lease.Observation
	record Member // Present
}

// observe makes a view of an entry. What is no session is nobody's.
func observe(e *kv.Entry, before lease.KeyState, now time.Time) (v observation, err error) {
	v.Observation = lease.Observe(e, before, now)
	if v.State != lease.Present {
		return v, nil
	}
	if v.record, err = DecodeMember(e.Key, e.Data); err != nil {
		v.State = lease.Absent
	}
	return v, err
}

// sessionEffects are what is to be done. At most one of Read and Write is asked for, and answered by an input.
type sessionEffects struct {
	Read   bool
	Write  *kv.Write
	Ensure bool // the bucket is gone
	Failed error
	Next   time.Time // zero: nothing is due

	Held bool // what was written is what the bucket holds
	Done bool // closed or superseded, and nothing is left to do
}

// Step takes what happened and says what to do.
func (t *sessionRules) Step(in lease.Input, now time.Time) (fx sessionEffects) {
	switch in.Kind {
	case lease.EntryHeard:
		if in.Entry.Revision > t.view.Revision {
			t.notBefore, t.conflicts = time.Time{}, 0 // the bucket lives
			t.read(&in.Entry, now, &fx)
		}
	case lease.KeysTrimmed:
		if t.view.Revision > 0 && t.view.Revision < in.Revision {
			t.view = observation{}
		}
	case lease.BucketReplaced:
		t.view = observation{}
	case lease.Answered:
		t.answer(in, now, &fx)
	}
	t.decide(now, &fx)
	return fx
}

// edit changes the record that the bucket should hold.
func (t *sessionRules) edit(change func(*Member), now time.Time) (fx sessionEffects) {
	before := t.mine
	change(&t.mine)
	t.changed = t.changed || t.mine != before
	t.decide(now, &fx)
	return fx
}

// stop has the session given back.
func (t *sessionRules) stop(now time.Time) (fx sessionEffects) {
	t.closing, t.notBefore = true, time.Time{}
	t.view.State = lease.Unknown // what was written last may have come late
	t.decide(now, &fx)
	return fx
}

func (t *sessionRules) read(e *kv.Entry, now time.Time, fx *sessionEffects) {
	v, err := observe(e, t.view.State, now)
	t.see(v)
	fx.Failed = err
}

func (t *sessionRules) see(v observation) {
	t.view = v
	if t.claimed && v.State == lease.Present && !t.ours() && v.record.Incarnation >= t.mine.Incarnation {
		t.by = &v.record
	}
}

// ours reports whether the key holds this run's record.
func (t *sessionRules) ours() bool {
	return t.view.State == lease.Present && t.view.record.ID == t.mine.ID
}

// settled reports whether the key holds this run's record as it is to be, and nothing is being written.
func (t *sessionRules) settled() bool {
	return t.ours() && !t.changed && t.flight.Is == lease.NoRequest
}

func (t *sessionRules) answer(in lease.Input, now time.Time, fx *sessionEffects) {
	f := t.flight
	t.flight = lease.InFlight[Member]{}
	switch {
	case in.Err != nil:
		t.fail(f, in.Err, now, fx)
	case f.Is == lease.Reading:
		switch t.view.Compare(f.Sent, in.Found, in.Entry.Revision) {
		case lease.Newer:
			t.read(&in.Entry, now, fx)
		case lease.Missing:
			t.see(observation{Observation: lease.Observation{State: lease.Absent, Heard: now}})
		}
	case f.Is == lease.Deleting:
		t.see(observation{Observation: lease.Observation{State: lease.Absent, Revision: in.Revision, Heard: now}})
	case f.Is == lease.Writing:
		t.conflicts, t.renewAt = 0, f.Sent.Add(lease.RenewIn(t.ttl, t.rand))
		if t.view.State == lease.Unknown || in.Revision < t.view.Revision {
			return // the bucket was lost meanwhile, or something came after: what is there now decides
		}
		fx.Held = true
		t.see(observation{Observation: lease.Observation{State: lease.Present, Revision: in.Revision, Heard: now}, record: f.Record})
	}
}

func (t *sessionRules) fail(f lease.InFlight[Member], err error, now time.Time, fx *sessionEffects) {
	retry := now.Add(lease.RetryIn(t.ttl, t.rand))
	t.changed = t.changed || f.Is == lease.Writing
	if errors.Is(err, kv.ErrConflict) {
		if t.view.Revision == f.On {
			t.view.State = lease.Unknown
		}
		// Once is how claims are lost. Again, with nothing heard, is a bucket that answers in two ways.
		if t.conflicts++; t.conflicts > 1 {
			t.notBefore = retry
		}
		return
	}
	if t.closing {
		t.view.State = lease.Unknown
	}
	t.notBefore = retry
	fx.Failed, fx.Ensure = err, lease.Gone(err)
}

// decide says what to do next, from what is known.
func (t *sessionRules) decide(now time.Time, fx *sessionEffects) {
	switch {
	case t.flight.Is != lease.NoRequest: // its answer is the next step
	case t.by != nil, t.closing && !t.claimed:
		fx.Done = true
	case now.Before(t.notBefore):
		fx.Next = t.notBefore
	case t.view.State == lease.Unknown:
		t.flight = lease.InFlight[Member]{Is: lease.Reading, Sent: now}
		fx.Read = true
	case t.closing && t.ours():
		t.flight = lease.InFlight[Member]{Is: lease.Deleting, On: t.view.Revision, Sent: now}
		fx.Write = &kv.Write{Key: t.key, Revision: t.view.Revision}
	case t.closing:
		fx.Done = true
	case t.ours() && !t.changed && now.Before(t.renewAt):
		fx.Next = t.renewAt
	default:
		t.write(now, fx)
	}
}

func (t *sessionRules) write(now time.Time, fx *sessionEffects) {
	if !t.claimed {
		t.claimed, t.mine.Incarnation = true, t.view.Revision+1
		if t.view.State == lease.Present {
			t.mine.Incarnation = t.view.record.Incarnation + 1
		}
	}
	data, err := json.Marshal(t.mine)
	if err != nil { // strings and numbers: it can't
		fx.Failed, fx.Next = fmt.Errorf("encode session of %s: %w", t.mine.Name, err), now.Add(lease.MaxRetry)
		return
	}
	t.flight = lease.InFlight[Member]{Is: lease.Writing, On: t.view.Revision, Record: t.mine, Sent: now}
	t.changed = false
	fx.Write = &kv.Write{Key: t.key, Data: data, Revision: t.view.Revision, TTL: lease.BucketTTL(t.ttl)}
}
