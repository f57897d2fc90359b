package membership

import (
	"fmt"
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
)

const testSettle = 500 * time.Millisecond

// town is a bucket with the sessions of several names, runs of these names that hold them, and observers who count the
// members. Requests and feeds are as slow and lossy as the test wants.
type town struct {
	rt  interface{ Fatalf(string, ...any) }
	now time.Time
	up  bool // JetStream answers

	revision uint64
	entries  map[string]kv.Entry
	written  map[string]time.Time
	log      []lease.Input // what the feed shows
	losses   uint64        // times that the bucket was lost or purged
	late     []*kv.Write

	runs      []*tenant
	observers []*observer
	puts      map[string][]time.Time // records written, by key
	asked     time.Time              // when the answer that is taken now was given

	top  map[string]uint64 // highest incarnation written, by name
	last map[string]string // who wrote it
}

// call is a request under way.
type call struct {
	key    string
	write  *kv.Write // nil: a read
	served bool
	at     time.Time // served
	answer lease.Input
}

type tenant struct {
	rules  sessionRules
	fed    int
	call   *call
	next   time.Time
	paused bool
	killed bool
	done   bool
}

type observer struct {
	rules  memberRules
	fed    int
	call   *call
	next   time.Time
	paused bool
	told   *View // last
	tells  int
}

func newTown(rt interface{ Fatalf(string, ...any) }, observers int) *town {
	w := &town{
		rt: rt, now: time.Date(2026, 11, 23, 7, 0, 0, 0, time.UTC), up: true, revision: 1 << 20,
		entries: map[string]kv.Entry{}, written: map[string]time.Time{}, puts: map[string][]time.Time{}, top: map[string]uint64{}, last: map[string]string{},
	}
	for range observers {
		o := &observer{rules: memberRules{grace: lease.DefaultGrace, settle: testSettle, rand: half, members: map[string]*memberState{}}, told: &View{}}
		w.observers = append(w.observers, o)
		w.observe(o, lease.Input{Kind: lease.FeedLevel})
	}
	return w
}

func half() float64 { return 0.5 }

// begin starts a run of the name.
func (w *town) begin(name string) *tenant {
	id := fmt.Sprintf("%s%d", name, len(w.runs))
	r := &tenant{fed: len(w.log), rules: sessionRules{
		key: MemberKey(name), ttl: lease.DefaultTTL, rand: half,
		mine: Member{Name: name, ID: id, Weight: 1, TTLMillis: lease.DefaultTTL.Milliseconds()},
	}}
	w.runs = append(w.runs, r)
	w.act(r, lease.Input{Kind: lease.TimerDue})
	return r
}

func (r *tenant) live() bool { return !r.killed && !r.done }

func (w *town) act(r *tenant, in lease.Input) { w.follow(r, r.rules.Step(in, w.now)) }

func (w *town) follow(r *tenant, fx sessionEffects) {
	r.next, r.done = fx.Next, fx.Done
	if fx.Read || fx.Write != nil {
		if r.call != nil || fx.Done {
			w.rt.Fatalf("two requests at once, or one after the end")
		}
		r.call = &call{key: r.rules.key, write: fx.Write}
	}
}

func (w *town) observe(o *observer, in lease.Input) {
	before := o.rules.view()
	fx := o.rules.Step(in, w.now)
	o.next = fx.Next
	view := o.rules.view()
	w.justified(in, before, view)
	if fx.Tell {
		o.told = view
		o.tells++
	}
	if fx.Read != "" {
		if o.call != nil {
			w.rt.Fatalf("two requests at once")
		}
		o.call = &call{key: fx.Read}
	}
}

// justified checks that nobody is declared gone who renews: but for a deletion it takes the leader's word that for the
// grace before there was nothing new.
func (w *town) justified(in lease.Input, before, now *View) {
	for i := range now.Peers {
		p := &now.Peers[i]
		was, ok := before.Peer(p.Name)
		if !ok || !was.Alive || p.Alive || in.Entry.Operation == kv.Deleted || w.losses > 0 {
			continue
		}
		if in.Kind != lease.Answered {
			w.rt.Fatalf("%s is gone by input %d", p.Name, in.Kind)
		}
		for _, at := range w.puts[MemberKey(p.Name)] {
			if !at.After(w.asked) && w.asked.Sub(at) < lease.DefaultGrace {
				w.rt.Fatalf("%s is gone, and wrote %v before the leader was asked", p.Name, w.asked.Sub(at))
			}
		}
	}
}

func (w *town) put(key string, write *kv.Write) (uint64, error) {
	if write.Revision != w.entries[key].Revision {
		return 0, kv.ErrConflict
	}
	e := kv.Entry{Key: key, Data: write.Data}
	if write.Data == nil {
		e.Operation = kv.Deleted
	} else {
		w.account(key, write)
		w.puts[key] = append(w.puts[key], w.now)
	}
	return w.set(e), nil
}

// account checks that nobody writes over the record of a later run, and that a run keeps its incarnation. Where there is no
// record an earlier run may come back, until the later one writes again.
func (w *town) account(key string, write *kv.Write) {
	m, err := DecodeMember(key, write.Data)
	if err != nil {
		w.rt.Fatalf("%v", err)
	}
	top, last := w.top[m.Name], w.last[m.Name]
	there := w.entries[key]
	_, err = DecodeMember(key, there.Data)
	stands := there.Operation == kv.Put && err == nil
	if w.losses == 0 && (stands && m.ID != last && m.Incarnation <= top || m.ID == last && m.Incarnation != top) {
		w.rt.Fatalf("%s writes incarnation %d after %d of %s", m.ID, m.Incarnation, top, last)
	}
	if m.Incarnation >= top {
		w.top[m.Name], w.last[m.Name] = m.Incarnation, m.ID
	}
}

func (w *town) set(e kv.Entry) uint64 {
	w.revision++
	e.Revision = w.revision
	w.entries[e.Key], w.written[e.Key] = e, w.now
	w.log = append(w.log, lease.Input{Kind: lease.EntryHeard, Entry: e})
	return e.Revision
}

func (w *town) serve(c *call) {
	if c == nil || c.served || !w.up {
		return
	}
	c.served, c.at, c.answer = true, w.now, lease.Input{Kind: lease.Answered}
	if c.write != nil {
		c.answer.Revision, c.answer.Err = w.put(c.key, c.write)
		return
	}
	c.answer.Entry, c.answer.Found = w.entries[c.key]
}

// finish gives a request's answer; a lost one is a time-out, and its write may still come.
func (w *town) finish(c **call, lost bool, step func(lease.Input)) {
	one := *c
	if one == nil || !one.served && !lost {
		return
	}
	*c = nil
	if lost {
		if !one.served && one.write != nil {
			w.late = append(w.late, one.write)
		}
		step(lease.Input{Kind: lease.Answered, Err: kv.ErrNoAck})
		return
	}
	w.asked = one.at
	step(one.answer)
}

func (w *town) finishRun(r *tenant, lost bool) {
	w.finish(&r.call, lost, func(in lease.Input) { w.act(r, in) })
}

func (w *town) finishObserver(o *observer, lost bool) {
	w.finish(&o.call, lost, func(in lease.Input) { w.observe(o, in) })
}

func (w *town) feed(r *tenant) bool {
	if r.fed >= len(w.log) {
		return false
	}
	in := w.log[r.fed]
	r.fed++
	if in.Kind != lease.EntryHeard || in.Entry.Key == r.rules.key {
		w.act(r, in)
	}
	return true
}

func (w *town) show(o *observer) bool {
	if o.fed == len(w.log) {
		return false
	}
	o.fed++
	w.observe(o, w.log[o.fed-1])
	return true
}

// expire does what the bucket does by itself.
func (w *town) expire() {
	if !w.up {
		return
	}
	for key, e := range w.entries {
		if e.Operation == kv.Put && w.now.Sub(w.written[key]) >= lease.BucketTTL(lease.DefaultTTL) {
			w.set(kv.Entry{Key: key, Operation: kv.Expired})
		}
	}
}

// lose empties the bucket; what comes after has lower revisions.
func (w *town) lose() {
	w.losses++
	w.revision = (1 << 20) - w.losses*1000
	w.entries, w.late = map[string]kv.Entry{}, nil
	w.log = append(w.log, lease.Input{Kind: lease.BucketReplaced})
	for _, r := range w.runs {
		if r.call != nil && !r.call.served {
			r.call.served, r.call.answer = true, lease.Input{Kind: lease.Answered, Err: kv.ErrNoStream}
		}
	}
}

// purge empties the bucket without a word.
func (w *town) purge() {
	w.losses++
	w.entries = map[string]kv.Entry{}
	w.log = append(w.log, lease.Input{Kind: lease.KeysTrimmed, Revision: w.revision + 1})
}

func (w *town) wake(next time.Time, step func()) {
	if !next.IsZero() && !w.now.Before(next) {
		step()
	}
}

// calm lets d pass in which everything works at once, but for those that are paused.
func (w *town) calm(d time.Duration) {
	end := w.now.Add(d)
	for {
		w.settle()
		next := end
		sooner := func(at time.Time) {
			if !at.IsZero() && at.Before(next) {
				next = at
			}
		}
		for _, r := range w.runs {
			if r.live() && !r.paused {
				sooner(r.next)
			}
		}
		for _, o := range w.observers {
			if !o.paused {
				sooner(o.next)
			}
		}
		w.now = lease.Later(w.now, next)
		if !w.now.Before(end) {
			w.settle()
			return
		}
		w.wakeAll()
	}
}

func (w *town) wakeAll() {
	for _, r := range w.runs {
		if r.live() && !r.paused {
			w.wake(r.next, func() { w.act(r, lease.Input{Kind: lease.TimerDue}) })
		}
	}
	for _, o := range w.observers {
		if !o.paused {
			w.wake(o.next, func() { w.observe(o, lease.Input{Kind: lease.TimerDue}) })
		}
	}
}

func (w *town) settle() {
	for busy := true; busy; {
		busy = false
		w.expire()
		for _, r := range slices.Clone(w.runs) {
			if r.killed || r.paused {
				continue
			}
			if r.call != nil {
				busy = busy || w.up
				w.serve(r.call)
				w.now = w.now.Add(time.Microsecond) // an answer takes a moment
				w.finishRun(r, !w.up)
			}
			for !r.done && w.feed(r) {
				busy = true
			}
		}
		for _, o := range w.observers {
			if o.paused {
				continue
			}
			if o.call != nil {
				busy = busy || w.up
				w.serve(o.call)
				w.now = w.now.Add(time.Microsecond)
				w.finishObserver(o, !w.up)
			}
			for w.show(o) {
				busy = true
			}
		}
	}
}

// alive are the names that an observer counts, with the ids of their runs.
func alive(v *View) map[string]string {
	ids := map[string]string{}
	for _, p := range v.Peers {
		if p.Alive {
			ids[p.Name] = p.ID
		}
	}
	return ids
}

func counted(v *View) map[string]string {
	ids := map[string]string{}
	for _, p := range v.Peers {
		if p.Eligible {
			ids[p.Name] = p.ID
		}
	}
	return ids
}

// holders are the runs that hold their sessions, by name.
func (w *town) holders() map[string]string {
	ids := map[string]string{}
	for _, r := range w.runs {
		if !r.live() {
			continue
		}
		name := r.rules.mine.Name
		if ids[name] != "" {
			w.rt.Fatalf("%s and %s hold on to one name", ids[name], r.rules.mine.ID)
		}
		ids[name] = r.rules.mine.ID
	}
	return ids
}
