package membership

import (
	"fmt"
	"time"

	"github.com/exesdb/subproxy/internal/leasetest"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
)

const (
	testTTL   = lease.DefaultTTL
	testGrace = lease.DefaultGrace
)

// world is a bucket with the sessions of several names, runs of these names that hold them, and observers
// who count the members.
type world struct {
	*leasetest.World
	runs      []*run
	observers []*observer

	puts map[string][]time.Time // records written, by key
	top  map[string]uint64      // highest incarnation written, by name
	last map[string]string      // who wrote it
}

// run is one of an instance that holds its session.
type run struct {
	*leasetest.Run
	rules  sessionRules
	killed bool
}

type observer struct {
	*leasetest.Run
	rules memberRules
	told  *View // last
	tells int
}

func newWorld(t interface{ Fatalf(string, ...any) }, observers int) *world {
	w := &world{
		World: leasetest.NewWorld(t, 1<<20), puts: map[string][]time.Time{}, top: map[string]uint64{}, last: map[string]string{},
	}
	w.Trip = time.Microsecond
	w.Account = w.account
	for range observers {
		o := w.addObserver()
		o.Step(lease.Input{Kind: lease.FeedLevel})
	}
	return w
}

func (w *world) addObserver() *observer {
	o := &observer{rules: newMemberRules(leasetest.Steady), told: &View{}}
	o.Run = w.Add("", func(in lease.Input) { w.observe(o, in) })
	o.ShowAll()
	w.observers = append(w.observers, o)
	return o
}

// begin starts a run of the name.
func (w *world) begin(name string) *run {
	mine := Member{Name: name, ID: fmt.Sprintf("%s%d", name, len(w.runs)), Weight: 1, TTLMillis: testTTL.Milliseconds()}
	r := &run{rules: newSessionRules(mine, testTTL, leasetest.Steady)}
	r.Run = w.Add(MemberKey(name), func(in lease.Input) { w.follow(r, r.rules.Step(in, w.Now)) })
	w.runs = append(w.runs, r)
	r.Step(lease.Input{Kind: lease.TimerDue})
	return r
}

// kill ends a run without a word.
func (r *run) kill() { r.killed, r.Over = true, true }

// done reports whether a run ended by itself.
func (r *run) done() bool { return r.Over && !r.killed }

// key is the key of the run's session.
func (r *run) key() string { return r.Run.Key }

func (w *world) follow(r *run, fx sessionEffects) { w.Follow(r.Run, &fx.Effects, fx.Done) }

func (w *world) stop(r *run) { w.follow(r, r.rules.stop(w.Now)) }

func (w *world) drain(r *run, draining bool) {
	w.follow(r, r.rules.edit(func(m *Member) { m.Draining = draining }, w.Now))
}

func (w *world) observe(o *observer, in lease.Input) {
	before := o.rules.view()
	fx := o.rules.Step(in, w.Now)
	view := o.rules.view()
	w.justified(in, before, view)
	if fx.Notify {
		o.told = view
		o.tells++
	}
	w.Follow(o.Run, &fx.Effects, false)
}

// justified checks that no member is declared gone that renews: but for a deletion it takes the leader's
// word that for the grace before there was nothing new.
func (w *world) justified(in lease.Input, before, now *View) {
	for i := range now.Peers {
		p := &now.Peers[i]
		was, ok := before.Peer(p.Name)
		if !ok || !was.Alive || p.Alive || in.Entry.Operation == kv.Deleted || w.Losses > 0 {
			continue
		}
		if in.Kind != lease.Answered {
			w.T.Fatalf("%s is gone by input %d", p.Name, in.Kind)
		}
		for _, at := range w.puts[MemberKey(p.Name)] {
			if !at.After(w.Answered) && w.Answered.Sub(at) < testGrace {
				w.T.Fatalf("%s is gone, and wrote %v before the leader was asked", p.Name, w.Answered.Sub(at))
			}
		}
	}
}

// account checks that no run writes over the record of a later run, and that a run keeps its incarnation.
// Where there is no record an earlier run may come back, until the later one writes again.
func (w *world) account(write *kv.Write, over kv.Entry, _ uint64) {
	key := write.Key
	m, err := DecodeMember(key, write.Data)
	if err != nil {
		w.T.Fatalf("%v", err)
	}
	top, last := w.top[m.Name], w.last[m.Name]
	_, err = DecodeMember(key, over.Data)
	stands := over.Operation == kv.Put && err == nil
	if w.Losses == 0 && (stands && m.ID != last && m.Incarnation <= top || m.ID == last && m.Incarnation != top) {
		w.T.Fatalf("%s writes incarnation %d after %d of %s", m.ID, m.Incarnation, top, last)
	}
	if m.Incarnation >= top {
		w.top[m.Name], w.last[m.Name] = m.Incarnation, m.ID
	}
	w.puts[key] = append(w.puts[key], w.Now)
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

// eligible are the names that have a share, with the ids of their runs.
func eligible(v *View) map[string]string {
	ids := map[string]string{}
	for _, p := range v.Peers {
		if p.Eligible {
			ids[p.Name] = p.ID
		}
	}
	return ids
}

// holders are the runs that hold their sessions, by name.
func (w *world) holders() map[string]string {
	ids := map[string]string{}
	for _, r := range w.runs {
		if r.Over {
			continue
		}
		name := r.rules.mine.Name
		if ids[name] != "" {
			w.T.Fatalf("%s and %s hold on to one name", ids[name], r.rules.mine.ID)
		}
		ids[name] = r.rules.mine.ID
	}
	return ids
}
