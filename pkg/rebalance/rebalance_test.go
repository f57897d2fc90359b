package rebalance

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/registration"
)

// world is a bucket of registrations, the history of who lived, and runs of instances that know some of
// both. Each run has a Rebalancer, and does what that says.
type world struct {
	rt       interface{ Fatalf(string, ...any) }
	now      time.Time
	keys     []string
	records  map[string]record // by key: what the bucket has
	feed     []record          // all writes, in order
	history  [][]member        // the living, after each change
	runs     []*run
	defaults map[string][]string // keys that a new run is configured with, by the instance's name
	requests []request           // under way, or lost
	offers   []offer             // the same
}

type member struct {
	registration.Owner
	weight   int
	draining bool
}

// record is an entry of the bucket; a marker has no owner.
type record struct {
	key      string
	revision uint64
	owner    *registration.Owner
}

type request struct {
	to  string // id
	by  registration.Owner
	key string
}

type offer struct {
	to   string // id
	from registration.Owner
	Offer
}

// run is one run of an instance.
type run struct {
	*Rebalancer
	self    member
	ended   bool // nobody sees that it lives; it may go on with what it has in hand
	retired bool // it heard of a later run of its name
	seen    int  // entries of the feed
	heard   int  // changes of who lives
	last    map[string]record
	proxies map[string]*proxy // by key, of what it is configured with
	drains  []Offer           // what it has released, and its sinks have in hand
	next    time.Time         // when it is to step at the latest; zero: not
}

// proxy is a subscription in a run, as far as a Rebalancer depends on it.
type proxy struct {
	held     uint64              // the revision that it is registered at; 0: it stands by
	revision uint64              // last revision known
	holder   *registration.Owner // known, while it stands by
}

func (w *world) start(name string, weight int) {
	for _, r := range w.runs {
		if r.self.Name == name {
			r.ended = true
		}
	}
	self := member{Owner: registration.Owner{Name: name, ID: name + strconv.Itoa(len(w.runs))}, weight: weight}
	r := &run{Rebalancer: New(self.Owner), self: self, last: map[string]record{}, proxies: map[string]*proxy{}}
	r.Note(Input{Kind: MembersChanged, Members: placement.UnknownMembers(self.Owner)}, w.now)
	w.runs = append(w.runs, r)
	w.changed()
	for _, key := range w.defaults[name] {
		w.configure(r, key)
	}
}

// changed adds to the history who lives now.
func (w *world) changed() {
	var living []member
	for _, r := range w.runs {
		if !r.ended {
			living = append(living, r.self)
		}
	}
	w.history = append(w.history, living)
}

func (w *world) lives(o registration.Owner) bool {
	return slices.ContainsFunc(w.runs, func(r *run) bool { return r.self.Owner == o && !r.ended })
}

// members is what the run knows of the others.
func (w *world) members(r *run) *placement.Members {
	if r.heard == 0 {
		return placement.UnknownMembers(r.self.Owner)
	}
	living := w.history[r.heard-1]
	members := make([]placement.Member, len(living))
	for i, m := range living {
		members[i] = placement.Member{Name: m.Name, Weight: m.weight, Draining: m.draining}
	}
	return placement.NewMembers(r.self.Owner, members, func(o registration.Owner) placement.Liveness {
		known := func(m member) bool { return m.Owner == o }
		switch {
		case slices.ContainsFunc(living, known):
			return placement.Alive
		case slices.ContainsFunc(w.history[:r.heard], func(then []member) bool { return slices.ContainsFunc(then, known) }):
			return placement.Gone
		}
		return placement.Unknown
	})
}

// configure gives a run a subscription: it is registered at once, or stands by.
func (w *world) configure(r *run, key string) {
	if r.proxies[key] != nil || r.retired {
		return
	}
	p := &proxy{revision: r.last[key].revision, holder: r.last[key].owner}
	r.proxies[key] = p
	if r.MayStart(key, p.holder) {
		w.register(r, key, p.revision, false)
		return
	}
	w.standBy(r, key)
}

// unconfigure takes it away again: what it holds is released.
func (w *world) unconfigure(r *run, key string) {
	p := r.proxies[key]
	if p == nil || r.retired {
		return
	}
	delete(r.proxies, key)
	r.Note(Input{Kind: Removed, Key: key}, w.now)
	if p.held > 0 {
		w.put(r, key, p.held, nil)
	}
}

// put is a conditional write.
func (w *world) put(r *run, key string, on uint64, owner *registration.Owner) bool {
	if w.records[key].revision != on {
		return false
	}
	e := record{key, uint64(len(w.feed) + 1), owner}
	w.records[key] = e
	w.feed = append(w.feed, e)
	if p := r.proxies[key]; p != nil && owner != nil {
		p.held, p.revision, p.holder = e.revision, e.revision, nil
	}
	return true
}

// register makes an attempt, and stands by where another instance has the better claim.
func (w *world) register(r *run, key string, on uint64, accepted bool) {
	p, known := r.proxies[key], on > 0
	r.Note(Input{Kind: Held, Key: key}, w.now)
	if accepted {
		r.Note(Input{Kind: Accepted, Key: key}, w.now)
	}
	for !w.put(r, key, on, &r.self.Owner) {
		found := w.records[key]
		if found.owner != nil && *found.owner != r.self.Owner && (known || w.members(r).LivenessOf(*found.owner) != placement.Gone) {
			p.held, p.revision, p.holder = 0, found.revision, found.owner
			r.Note(Input{Kind: Registered, Key: key, Began: w.now, Failed: true}, w.now)
			w.standBy(r, key)
			return
		}
		on = found.revision
	}
	r.Note(Input{Kind: Registered, Key: key, Began: w.now}, w.now)
}

func (w *world) standBy(r *run, key string) {
	if p := r.proxies[key]; p != nil && p.held == 0 && !r.retired {
		r.Note(Input{Kind: StoodBy, Key: key, Holder: p.holder}, w.now)
	}
}

// see shows a run the next entry of the bucket.
func (w *world) see(r *run) bool {
	if r.seen == len(w.feed) {
		return false
	}
	e := w.feed[r.seen]
	r.seen++
	r.last[e.key] = e
	p := r.proxies[e.key]
	if p == nil || r.retired {
		return true
	}
	mine := e.owner != nil && *e.owner == r.self.Owner
	in := Input{Kind: Seen, Key: e.key, Revision: e.revision, Mine: mine}
	if !mine && e.owner != nil {
		in.Holder, in.Taken = e.owner, p.held == 0 && (p.holder == nil || *p.holder != *e.owner)
	}
	r.Note(in, w.now)
	if e.revision <= p.revision {
		return true
	}
	if p.held > 0 && e.owner != nil && e.owner.Name == r.self.Name {
		r.Note(Input{Kind: RivalSeen}, w.now)
	}
	lost := p.held > 0 && e.owner == nil
	if p.revision = e.revision; lost { // it was deleted while this run held it: it registers again
		w.register(r, e.key, e.revision, false)
		return true
	}
	if p.held, p.holder = 0, e.owner; mine {
		p.holder = nil // its own late write: nobody serves it
	}
	w.standBy(r, e.key)
	return true
}

// hear tells a run the next change of who lives.
func (w *world) hear(r *run) bool {
	if r.heard == len(w.history) {
		return false
	}
	r.heard++
	later := func(m member) bool {
		i := slices.IndexFunc(w.runs, func(other *run) bool { return other.self.ID == m.ID })
		return m.Name == r.self.Name && i > slices.Index(w.runs, r)
	}
	if r.retired = r.retired || slices.ContainsFunc(w.history[r.heard-1], later); r.retired {
		for key, p := range r.proxies {
			p.held = 0
			r.Note(Input{Kind: Removed, Key: key}, w.now)
		}
		return true
	}
	r.Note(Input{Kind: MembersChanged, Members: w.members(r)}, w.now)
	for _, key := range w.keys {
		w.standBy(r, key)
	}
	return true
}

// step makes a run do what its Rebalancer says, and reports whether that was anything.
func (w *world) step(r *run, isDraining func() bool) (did bool) {
	if r.retired {
		r.next = time.Time{}
		return false
	}
	for {
		fx := r.Step(w.now)
		did = did || len(fx.Claim)+len(fx.Release)+len(fx.Request)+len(fx.Offer)+len(fx.Reclaim) > 0
		for _, key := range fx.Claim {
			w.claim(r, key)
		}
		for _, g := range fx.Release {
			w.release(r, g, isDraining())
		}
		for _, q := range fx.Request {
			for _, key := range q.Keys {
				w.requests = append(w.requests, request{q.Holder.ID, r.self.Owner, key})
			}
		}
		for _, o := range fx.Offer {
			for _, one := range o.Offers {
				w.offers = append(w.offers, offer{o.To.ID, r.self.Owner, one})
			}
		}
		for _, o := range fx.Reclaim {
			w.reclaim(r, o)
			r.Note(Input{Kind: Reclaimed, Key: o.Key}, w.now)
			w.standBy(r, o.Key)
		}
		if r.next = fx.Next; !fx.More {
			break
		}
	}
	w.consistent(r)
	return did
}

// reclaim deletes the record that was offered, or a later one of this run's own.
func (w *world) reclaim(r *run, o Offer) {
	there, p := w.records[o.Key], r.proxies[o.Key]
	own := there.owner != nil && *there.owner == r.self.Owner
	if !w.put(r, o.Key, o.Revision, nil) && own && (p == nil || p.held == 0) {
		w.put(r, o.Key, there.revision, nil)
	}
}

func (w *world) claim(r *run, key string) {
	p := r.proxies[key]
	if p == nil || p.held > 0 {
		w.rt.Fatalf("%s is to claim %s, which it holds or does not know", r.self.ID, key)
	}
	there := w.records[key]
	if there.owner != nil && there.revision == p.revision && r.seen == len(w.feed) && r.heard == len(w.history) && w.lives(*there.owner) {
		w.rt.Fatalf("%s claims %s from %s, and knows that it lives", r.self.ID, key, there.owner.ID)
	}
	w.register(r, key, p.revision, false)
}

func (w *world) release(r *run, g Grant, isDraining bool) {
	p := r.proxies[g.Key]
	if p == nil || p.held == 0 {
		r.Note(Input{Kind: Kept, Key: g.Key}, w.now)
		w.standBy(r, g.Key)
		return
	}
	r.Note(Input{Kind: Released, Key: g.Key, Draining: isDraining}, w.now)
	o := Offer{Key: g.Key, Revision: p.held}
	p.held, p.holder = 0, nil
	w.standBy(r, g.Key)
	if isDraining {
		r.drains = append(r.drains, o)
		return
	}
	r.Note(Input{Kind: Drained, Offer: o}, w.now)
}

// drain ends what a sink has in hand.
func (w *world) drain(r *run) bool {
	if len(r.drains) == 0 || r.retired {
		return false
	}
	o := r.drains[0]
	r.drains = r.drains[1:]
	r.Note(Input{Kind: Drained, Offer: o}, w.now)
	return true
}

// writeLate stores a write of before the release, whose acknowledgement was lost.
func (w *world) writeLate(r *run, key string) {
	there := w.records[key]
	if p := r.proxies[key]; r.retired || p == nil || p.held > 0 || r.sender.outgoing[key] == nil || there.owner == nil || *there.owner != r.self.Owner {
		return
	}
	e := record{key, uint64(len(w.feed) + 1), &r.self.Owner}
	w.records[key] = e
	w.feed = append(w.feed, e)
}

// deliverRequest lets the holder hear of a request.
func (w *world) deliverRequest(q request) {
	for _, r := range w.runs {
		if p := r.proxies[q.key]; r.self.ID == q.to && p != nil && p.held > 0 && !r.retired {
			r.Note(Input{Kind: Requested, Key: q.key, Holder: &q.by}, w.now)
		}
	}
}

// deliverOffer lets the receiver hear of an offer.
func (w *world) deliverOffer(o offer) {
	for _, r := range w.runs {
		p := r.proxies[o.Key]
		if r.self.ID != o.to || r.retired || p == nil || p.held > 0 || !r.Accepts(o.Key) {
			continue
		}
		if p.holder != nil && *p.holder == o.from && o.Revision >= p.revision { // else it is another's since
			w.register(r, o.Key, o.Revision, true)
		}
	}
}

// consistent checks what a Rebalancer counts, and that of all runs which believe that they hold a key at
// the bucket's revision there is one.
func (w *world) consistent(r *run) {
	requested, releases := 0, 0
	for key, in := range r.receiver.incoming {
		if in.request == sent {
			requested++
		}
		if r.sender.outgoing[key] != nil {
			w.rt.Fatalf("%s moves both ways at %s", key, r.self.ID)
		}
	}
	for _, o := range r.sender.outgoing {
		if o.state == releasing {
			releases++
		}
	}
	if requested != r.receiver.requested || releases != r.sender.releasing {
		w.rt.Fatalf("%s counts %d requests and %d releases, and has %d and %d", r.self.ID, r.receiver.requested, r.sender.releasing, requested, releases)
	}
	for _, key := range r.sender.offers {
		if o := r.sender.outgoing[key]; o == nil || o.state != drained && o.state != offered {
			w.rt.Fatalf("%s offers %s, which is %+v", r.self.ID, key, o)
		}
	}
	for _, key := range w.keys {
		holders := 0
		for _, r := range w.runs {
			if p := r.proxies[key]; p != nil && p.held > 0 && p.held == w.records[key].revision {
				holders++
			}
		}
		if holders > 1 {
			w.rt.Fatalf("%d hold %s", holders, key)
		}
	}
}

func keys(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = "greenhouse_tycoon.by_event_type.initialized=3Av1.to_pubsub_" + strconv.Itoa(i)
	}
	return all
}

func TestOwnershipConvergesForAnyHistoryDelayAndConfiguration(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{
			rt: t, now: time.Unix(1000, 0), keys: keys(rapid.IntRange(1, 6).Draw(t, "keys")), records: map[string]record{},
			defaults: map[string][]string{},
		}
		names := []string{"a", "b", "c", "d"}
		same := rapid.Bool().Draw(t, "same configuration")
		for _, name := range names {
			w.defaults[name] = w.keys
			if !same {
				w.defaults[name] = rapid.SliceOfDistinct(rapid.SampledFrom(w.keys), rapid.ID).Draw(t, name+" has")
			}
		}
		start := func(t *rapid.T) {
			w.start(rapid.SampledFrom(names).Draw(t, "name"), rapid.IntRange(1, 3).Draw(t, "weight"))
		}
		start(t)
		// Those that ended go on with what they have in hand: a run that was stopped and wakes up late is
		// one of them.
		some := func() *run { return w.runs[rapid.IntRange(0, len(w.runs)-1).Draw(t, "run")] }
		key := func() string { return rapid.SampledFrom(w.keys).Draw(t, "key") }
		drains := func() bool { return rapid.Bool().Draw(t, "in hand") }
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) {
				for _, r := range w.runs {
					w.consistent(r)
				}
			},
			"start": start,
			"end":   func(*rapid.T) { some().ended = true; w.changed() },
			"drain": func(*rapid.T) { r := some(); r.self.draining = !r.self.draining; w.changed() },
			"see":   func(*rapid.T) { w.see(some()) },
			"hear":  func(*rapid.T) { w.hear(some()) },
			"catch up": func(*rapid.T) {
				for r := some(); w.see(r) || w.hear(r); {
				}
			},
			"step":       func(*rapid.T) { w.step(some(), drains) },
			"all act":    func(t *rapid.T) { w.act(drains, func() bool { return rapid.Float64().Draw(t, "lost") < 0.3 }) },
			"late write": func(*rapid.T) { w.writeLate(some(), key()) },
			"sink ends":  func(*rapid.T) { w.drain(some()) },
			"time passes": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond)
			},
			"configure": func(t *rapid.T) { w.configure(some(), key()) },
			"remove":    func(t *rapid.T) { w.unconfigure(some(), key()) },
			"request arrives": func(t *rapid.T) {
				if len(w.requests) == 0 {
					t.Skip("nobody requests")
				}
				w.deliverRequest(rapid.SampledFrom(w.requests).Draw(t, "request")) // perhaps not for the first time
			},
			"offer arrives": func(t *rapid.T) {
				if len(w.offers) == 0 {
					t.Skip("nothing is offered")
				}
				w.deliverOffer(rapid.SampledFrom(w.offers).Draw(t, "offer"))
			},
		})
		w.converge()
	})
}

// act lets all runs that live do what they have to, and the messages arrive that are not lost.
func (w *world) act(isDraining, isLost func() bool) (did bool) {
	for _, r := range w.runs {
		for !r.ended && (w.see(r) || w.hear(r) || w.drain(r)) {
			did = true
		}
	}
	for _, r := range w.runs {
		did = !r.ended && w.step(r, isDraining) || did
	}
	offers, requests := w.offers, w.requests
	w.offers, w.requests = nil, nil
	for _, o := range offers {
		if !isLost() {
			w.deliverOffer(o)
		}
	}
	for _, q := range requests {
		if !isLost() {
			w.deliverRequest(q)
		}
	}
	return did
}

// converge lets what is under way be lost, all later messages arrive, and time pass whenever there is
// nothing else to do, and checks that all comes to rest with what the rule says.
func (w *world) converge() {
	w.requests, w.offers = nil, nil
	for rounds := 0; ; rounds++ {
		if rounds > 2000 {
			w.rt.Fatalf("it does not come to rest")
		}
		busy := w.act(never, never)
		if busy {
			continue
		}
		next := time.Time{}
		for _, r := range w.runs {
			if !r.ended && !r.next.IsZero() && (next.IsZero() || r.next.Before(next)) {
				next = r.next
			}
		}
		if next.IsZero() {
			break
		}
		if next.After(w.now) {
			w.now = next
		}
	}
	w.check()
}

func never() bool { return false }

// check says who should hold what: of the living that know a subscription the one that should most.
func (w *world) check() {
	living := w.history[len(w.history)-1]
	allDrain := !slices.ContainsFunc(living, func(m member) bool { return !m.draining })
	for _, key := range w.keys {
		var members, drainers []placement.Member
		ids := map[string]string{}
		for _, r := range w.runs {
			if r.ended || r.proxies[key] == nil {
				continue
			}
			ids[r.self.Name] = r.self.ID
			if m := (placement.Member{Name: r.self.Name, Weight: r.self.weight}); r.self.draining && !allDrain {
				drainers = append(drainers, m)
			} else {
				members = append(members, m)
			}
		}
		got, want := w.records[key].owner, placement.NewRendezvous(members).Assign(key)
		switch {
		case want == "" && len(drainers) == 0: // nobody knows it
		case got == nil || ids[got.Name] != got.ID:
			w.rt.Fatalf("%s is held by %+v, who does not live or know it; of %+v", key, got, living)
		case want != "" && got.Name != want:
			w.rt.Fatalf("%s is held by %+v, and assigned to %s of %+v", key, got, want, living)
		}
	}
}
