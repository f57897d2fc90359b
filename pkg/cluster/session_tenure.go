package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/registry"
)

// tenure is one run of an instance holding its session: the rules. It is a value that does no I/O; one request at a time is
// made for it, answered by an input.
//
// Two runs of one name are told apart by the incarnation of their records, which a run chooses when it first writes and
// keeps: one above the record it replaces, or above the revision of the marker that it finds in place of one. An
// incarnation is so never above the revision it was first written with, and that of a later run is above it, whether or
// not there was a record in between. Whoever finds a record with another id that is not below its own is superseded, and
// writes nothing any more; of two that chose the same, the one in the bucket won. Whatever else it finds it writes over.
type tenure struct {
	key  string
	ttl  time.Duration
	rand func() float64 // in [0, 1)

	mine   Member // what the bucket should hold
	view   memberSight
	flight crossing

	claimed   bool // mine has its incarnation, and may have been written
	changed   bool // mine is to be written now
	closing   bool
	by        *Member // who superseded this run
	renewAt   time.Time
	notBefore time.Time // pause after a failure
	conflicts int       // in a row
}

// crossing is the one request that is under way.
type crossing struct {
	is     operation
	on     uint64 // the revision that a write is conditional on
	record Member
	sent   time.Time
}

// memberSight is what is known of a session's key.
type memberSight struct {
	sight
	record Member // leased
}

// memberSightOf makes a view of an entry. What is no session is nobody's.
func memberSightOf(e *registry.Entry, before content, now time.Time) (v memberSight, err error) {
	v.sight = sightOf(e, before, now)
	if v.is != leased {
		return v, nil
	}
	if v.record, err = DecodeMember(e.Key, e.Data); err != nil {
		v.is = vacant
	}
	return v, err
}

// tenureEffects are what is to be done. At most one of Read and Write is asked for, and answered by an input.
type tenureEffects struct {
	Read   bool
	Write  *registry.Write
	Ensure bool // the bucket is gone
	Failed error
	Next   time.Time // zero: nothing is due

	Held bool // what was written is what the bucket holds
	Done bool // closed or superseded, and nothing is left to do
}

// Step takes what happened and says what to do.
func (t *tenure) Step(in input, now time.Time) (fx tenureEffects) {
	switch in.kind {
	case heard:
		if in.entry.Revision > t.view.revision {
			t.notBefore, t.conflicts = time.Time{}, 0 // the bucket lives
			t.read(&in.entry, now, &fx)
		}
	case trimmed:
		if t.view.revision > 0 && t.view.revision < in.revision {
			t.view = memberSight{}
		}
	case voided:
		t.view = memberSight{}
	case answered:
		t.answer(in, now, &fx)
	case asked:
		before := t.mine
		in.edit(&t.mine)
		t.changed = t.changed || t.mine != before
	case stopped:
		t.closing, t.notBefore = true, time.Time{}
		t.view.is = unread // what was written last may have come late
	}
	t.decide(now, &fx)
	return fx
}

func (t *tenure) read(e *registry.Entry, now time.Time, fx *tenureEffects) {
	v, err := memberSightOf(e, t.view.is, now)
	t.see(v)
	fx.Failed = err
}

func (t *tenure) see(v memberSight) {
	t.view = v
	if t.claimed && v.is == leased && !t.ours() && v.record.Incarnation >= t.mine.Incarnation {
		t.by = &v.record
	}
}

// ours reports whether the key holds this run's record.
func (t *tenure) ours() bool { return t.view.is == leased && t.view.record.ID == t.mine.ID }

// settled reports whether the key holds this run's record as it is to be, and nothing is being written.
func (t *tenure) settled() bool { return t.ours() && !t.changed && t.flight.is == idle }

func (t *tenure) answer(in input, now time.Time, fx *tenureEffects) {
	f := t.flight
	t.flight = crossing{}
	switch {
	case in.err != nil:
		t.fail(f, in.err, now, fx)
	case f.is == reading:
		switch t.view.weigh(f.sent, in.found, in.entry.Revision) {
		case newer:
			t.read(&in.entry, now, fx)
		case absent:
			t.see(memberSight{sight: sight{is: vacant, heard: now}})
		}
	case f.is == deleting:
		t.see(memberSight{sight: sight{is: vacant, revision: in.revision, heard: now}})
	case f.is == writing:
		t.conflicts, t.renewAt = 0, f.sent.Add(renewIn(t.ttl, t.rand))
		if t.view.is == unread || in.revision < t.view.revision {
			return // the bucket was lost meanwhile, or something came after: what is there now decides
		}
		fx.Held = true
		t.see(memberSight{sight: sight{is: leased, revision: in.revision, heard: now}, record: f.record})
	}
}

func (t *tenure) fail(f crossing, err error, now time.Time, fx *tenureEffects) {
	retry := now.Add(retryIn(t.ttl, t.rand))
	t.changed = t.changed || f.is == writing
	if errors.Is(err, registry.ErrConflict) {
		if t.view.revision == f.on {
			t.view.is = unread
		}
		// Once is how claims are lost. Again, with nothing heard, is a bucket that answers in two ways.
		if t.conflicts++; t.conflicts > 1 {
			t.notBefore = retry
		}
		return
	}
	if t.closing {
		t.view.is = unread
	}
	t.notBefore = retry
	fx.Failed, fx.Ensure = err, isGone(err)
}

// decide says what to do next, from what is known.
func (t *tenure) decide(now time.Time, fx *tenureEffects) {
	switch {
	case t.flight.is != idle: // its answer is the next step
	case t.by != nil, t.closing && !t.claimed:
		fx.Done = true
	case now.Before(t.notBefore):
		fx.Next = t.notBefore
	case t.view.is == unread:
		t.flight = crossing{is: reading, sent: now}
		fx.Read = true
	case t.closing && t.ours():
		t.flight = crossing{is: deleting, on: t.view.revision, sent: now}
		fx.Write = &registry.Write{Key: t.key, Revision: t.view.revision}
	case t.closing:
		fx.Done = true
	case t.ours() && !t.changed && now.Before(t.renewAt):
		fx.Next = t.renewAt
	default:
		t.write(now, fx)
	}
}

func (t *tenure) write(now time.Time, fx *tenureEffects) {
	if !t.claimed {
		t.claimed, t.mine.Incarnation = true, t.view.revision+1
		if t.view.is == leased {
			t.mine.Incarnation = t.view.record.Incarnation + 1
		}
	}
	data, err := json.Marshal(t.mine)
	if err != nil { // strings and numbers: it can't
		fx.Failed, fx.Next = fmt.Errorf("encode session of %s: %w", t.mine.Name, err), now.Add(maxRetry)
		return
	}
	t.flight = crossing{is: writing, on: t.view.revision, record: t.mine, sent: now}
	t.changed = false
	fx.Write = &registry.Write{Key: t.key, Data: data, Revision: t.view.revision, TTL: garbageTTL(t.ttl)}
}
