package placement

import (
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/registration"
)

// market is a bucket of registrations, the history of who lived, and members that know some of both. Each is configured with
// some of the subscriptions.
type market struct {
	rt       interface{ Fatalf(string, ...any) }
	keys     []string
	revision uint64
	records  map[string]stall // by key; a deletion leaves a revision without an owner
	feed     []stall          // all writes, in order
	history  [][]crier        // the living, after each change
	traders  []*trader
	knows    map[string][]string // keys, by the member's name
	pleas    []plead             // under way, or lost
	gifts    []gift              // the same
	starts   int
}

type crier struct {
	registration.Owner
	weight   int
	draining bool
}

type stall struct {
	key      string
	revision uint64
	owner    *registration.Owner
}

type plead struct {
	to  string // id
	by  registration.Owner
	key string
}

// gift is what a holder tells the one that it leaves a key to.
type gift struct {
	to, key  string
	from     registration.Owner
	revision uint64
}

// trader is one run of a member.
type trader struct {
	self     crier
	ended    bool
	fed      int // it has seen so many of the feed
	told     int // and heard so much of the history
	seen     map[string]stall
	releases map[string]leaving // what it drains
	given    map[string]uint64  // what it left to others and did not see taken, with its revision
	holds    map[string]uint64  // what it was acknowledged, and has seen nothing newer of
}

// leaving is a key that is to be left to one that asked for it, with the revision of its record.
type leaving struct {
	to       string
	revision uint64
}

func (m *market) start(name string, weight int) {
	m.starts++
	for _, tr := range m.traders {
		if tr.self.Name == name {
			tr.ended = true // superseded
		}
	}
	m.traders = append(m.traders, &trader{
		self: crier{Owner: registration.Owner{Name: name, ID: name + strconv.Itoa(m.starts)}, weight: weight},
		seen: map[string]stall{}, releases: map[string]leaving{}, given: map[string]uint64{}, holds: map[string]uint64{},
	})
	m.changed()
}

func (m *market) changed() {
	var living []crier
	for _, tr := range m.traders {
		if !tr.ended {
			living = append(living, tr.self)
		}
	}
	m.history = append(m.history, living)
}

func (m *market) lives(o registration.Owner) bool {
	return slices.ContainsFunc(m.traders, func(tr *trader) bool { return tr.self.Owner == o && !tr.ended })
}

// write is conditional. Whoever it succeeds for holds the key, and nobody else does at its revision.
func (m *market) write(tr *trader, key string, on uint64, owner *registration.Owner) {
	if m.records[key].revision != on {
		return
	}
	if there := m.records[key].owner; owner != nil && there != nil && tr.fed == len(m.feed) && tr.told == len(m.history) && m.lives(*there) {
		m.rt.Fatalf("%s takes %s from %s, and knows that it lives", owner.ID, key, there.ID)
	}
	m.writeOver(tr, key, on, owner)
}

// writeOver is write for what its holder may have given.
func (m *market) writeOver(tr *trader, key string, on uint64, owner *registration.Owner) {
	if m.records[key].revision != on {
		return
	}
	m.revision++
	s := stall{key, m.revision, owner}
	m.records[key] = s
	m.feed = append(m.feed, s)
	delete(tr.holds, key)
	if owner != nil {
		tr.holds[key] = s.revision
	}
}

func (m *market) see(tr *trader) bool {
	if tr.fed == len(m.feed) {
		return false
	}
	s := m.feed[tr.fed]
	tr.fed++
	tr.seen[s.key] = s
	if s.revision > tr.holds[s.key] {
		delete(tr.holds, s.key)
	}
	if s.revision > tr.given[s.key] {
		delete(tr.given, s.key)
	}
	return true
}

func (m *market) hear(tr *trader) bool {
	if tr.told == len(m.history) {
		return false
	}
	tr.told++
	return true
}

// members is what the trader knows of the others.
func (m *market) members(tr *trader) *Members {
	if tr.told == 0 {
		return UnknownMembers(tr.self.Owner)
	}
	living := m.history[tr.told-1]
	members := make([]Member, len(living))
	for i, c := range living {
		members[i] = Member{Name: c.Name, Weight: c.weight, Draining: c.draining}
	}
	return NewMembers(tr.self.Owner, members, func(o registration.Owner) Liveness {
		known := func(c crier) bool { return c.Owner == o }
		switch {
		case slices.ContainsFunc(living, known):
			return Alive
		case slices.ContainsFunc(m.history[:tr.told], func(then []crier) bool { return slices.ContainsFunc(then, known) }):
			return Gone
		}
		return Unknown
	})
}

// release does what the trader had begun: it leaves a key to the one that asked for it.
func (m *market) release(tr *trader, key string) bool {
	l, ok := tr.releases[key]
	if !ok {
		return false
	}
	delete(tr.releases, key)
	delete(tr.holds, key)
	tr.given[key] = l.revision
	m.gifts = append(m.gifts, gift{l.to, key, tr.self.Owner, l.revision})
	return true
}

// take lets the one that a gift is for write over the record, if it still wants it.
func (m *market) take(g gift) {
	for _, tr := range m.traders {
		seen := tr.seen[g.key]
		if tr.self.ID != g.to || m.retired(tr) || seen.owner == nil || *seen.owner != g.from || seen.revision > g.revision {
			continue
		}
		if m.members(tr).HasShare() {
			m.writeOver(tr, g.key, g.revision, &tr.self.Owner)
		}
	}
}

// takeBack releases what the trader left to another, and did not see taken in time.
func (m *market) takeBack(tr *trader, key string) bool {
	on, ok := tr.given[key]
	if !ok {
		return false
	}
	delete(tr.given, key)
	m.write(tr, key, on, nil)
	return true
}

// move makes the trader do about a key what the rule says of what it has seen, if no more are ahead of it than that. It
// reports whether that was anything.
func (m *market) move(tr *trader, key string, most int) bool {
	seen := tr.seen[key]
	if m.retired(tr) {
		return false
	}
	_, draining := tr.releases[key]
	if _, given := tr.given[key]; draining || given || !slices.Contains(m.knows[tr.self.Name], key) || seen.owner != nil && *seen.owner == tr.self.Owner {
		return false
	}
	move, ahead := m.members(tr).Decide(key, seen.owner)
	switch {
	case ahead > most:
		return false
	case move == Claim:
		m.write(tr, key, seen.revision, &tr.self.Owner)
		return true
	case move == Request:
		m.pleas = append(m.pleas, plead{seen.owner.ID, tr.self.Owner, key})
		return true
	}
	return false
}

// retired reports whether the trader has heard of a later run of its name.
func (m *market) retired(tr *trader) bool {
	heard := m.history[:tr.told]
	return slices.ContainsFunc(m.traders[slices.Index(m.traders, tr)+1:], func(later *trader) bool {
		return later.self.Name == tr.self.Name && slices.ContainsFunc(heard, func(then []crier) bool {
			return slices.ContainsFunc(then, func(c crier) bool { return c.ID == later.self.ID })
		})
	})
}

// heed lets whoever was asked decide.
func (m *market) heed(p plead) {
	for _, tr := range m.traders {
		seen := tr.seen[p.key]
		if tr.self.ID == p.to && seen.owner != nil && *seen.owner == tr.self.Owner && m.members(tr).Grants(p.key, p.by) {
			if _, given := tr.given[p.key]; !given {
				tr.releases[p.key] = leaving{p.by.ID, seen.revision}
			}
		}
	}
}

// exclusive checks that of all who believe they hold a key at the bucket's revision there is one.
func (m *market) exclusive() {
	for _, key := range m.keys {
		holders := 0
		for _, tr := range m.traders {
			if tr.holds[key] == m.records[key].revision && tr.holds[key] > 0 {
				holders++
			}
		}
		if holders > 1 {
			m.rt.Fatalf("%d hold %s", holders, key)
		}
	}
}

func TestOwnershipConvergesForAnyHistoryDelayAndConfiguration(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &market{rt: t, keys: keys(rapid.IntRange(1, 6).Draw(t, "keys")), records: map[string]stall{}, knows: map[string][]string{}}
		names := []string{"a", "b", "c", "d"}
		same := rapid.Bool().Draw(t, "same configuration")
		for _, name := range names {
			m.knows[name] = m.keys
			if !same {
				m.knows[name] = rapid.SliceOfDistinct(rapid.SampledFrom(m.keys), rapid.ID).Draw(t, name+" knows")
			}
		}
		start := func(t *rapid.T) {
			m.start(rapid.SampledFrom(names).Draw(t, "name"), rapid.IntRange(1, 3).Draw(t, "weight"))
		}
		start(t)
		// Those that ended go on with what they have in hand: a run that was stopped and wakes up late is one of them.
		some := func() *trader { return m.traders[rapid.IntRange(0, len(m.traders)-1).Draw(t, "trader")] }
		key := func() string { return rapid.SampledFrom(m.keys).Draw(t, "key") }
		t.Repeat(map[string]func(*rapid.T){
			"":      func(*rapid.T) { m.exclusive() },
			"start": start,
			"end":   func(*rapid.T) { some().ended = true; m.changed() },
			"drain": func(t *rapid.T) { tr := some(); tr.self.draining = !tr.self.draining; m.changed() },
			"see":   func(*rapid.T) { m.see(some()) },
			"hear":  func(*rapid.T) { m.hear(some()) },
			"catch up": func(*rapid.T) {
				for tr := some(); m.see(tr) || m.hear(tr); {
				}
			},
			"move":    func(*rapid.T) { m.move(some(), key(), len(names)) },
			"release": func(*rapid.T) { m.release(some(), key()) },
			"take": func(t *rapid.T) {
				if len(m.gifts) == 0 {
					t.Skip("nothing is left to anybody")
				}
				m.take(rapid.SampledFrom(m.gifts).Draw(t, "gift")) // perhaps not for the first time
			},
			"take back": func(*rapid.T) { m.takeBack(some(), key()) },
			"heed": func(t *rapid.T) {
				if len(m.pleas) == 0 {
					t.Skip("nobody asks")
				}
				m.heed(rapid.SampledFrom(m.pleas).Draw(t, "plea"))
			},
		})
		m.converge()
	})
}

// converge lets messages arrive, and checks that all comes to rest with what the rule says. Each turn is over before the next
// one begins, as it is where nothing fails.
func (m *market) converge() {
	m.pleas, m.gifts = nil, nil
	for rounds, most := 0, 0; most <= len(m.knows); rounds++ {
		if rounds > 200 {
			m.rt.Fatalf("it does not come to rest")
		}
		busy := false
		for _, tr := range m.traders {
			for m.see(tr) || m.hear(tr) {
				busy = true
			}
		}
		for _, tr := range m.traders {
			for _, key := range m.keys {
				busy = m.takeBack(tr, key) || m.release(tr, key) || !tr.ended && m.move(tr, key, most) || busy
			}
			m.exclusive()
		}
		for _, g := range m.gifts {
			m.take(g)
		}
		m.gifts = nil
		for _, p := range m.pleas {
			m.heed(p)
		}
		m.pleas = nil
		if most++; busy {
			most = 0
		}
	}
	m.check()
}

// check says who should hold what: of the living that know a subscription the one that it suits best.
func (m *market) check() {
	living := m.history[len(m.history)-1]
	for _, key := range m.keys {
		var members []Member
		ids := map[string]string{}
		drain := true
		for _, c := range living {
			drain = drain && c.draining
		}
		last := false // is it left to those that drain, where nobody else knows it
		for pass := 0; pass < 2 && len(members) == 0; pass++ {
			for _, c := range living {
				if slices.Contains(m.knows[c.Name], key) && (drain || !c.draining || pass == 1) {
					members = append(members, Member{Name: c.Name, Weight: c.weight})
					ids[c.Name] = c.ID
				}
			}
			last = pass == 1
		}
		got, want := m.records[key].owner, NewRendezvous(members).Assign(key)
		switch {
		case want == "":
		case got == nil || ids[got.Name] != got.ID:
			m.rt.Fatalf("%s is held by %+v, who does not live or know it; of %+v", key, got, living)
		case !last && got.Name != want:
			m.rt.Fatalf("%s is held by %+v, and assigned to %s of %+v", key, got, want, living)
		}
	}
}

func TestStoreIsSharedWithThoseThatHaveIt(t *testing.T) {
	has := func(stores ...string) func(string) bool {
		return func(store string) bool { return slices.Contains(stores, store) }
	}
	self := registration.Owner{Name: "a", ID: "a1"}
	all := NewMembers(self, []Member{{Name: "a", Has: has("s", "t")}, {Name: "b", Has: has("t")}, {Name: "c"}, {Name: "d", Has: has()}}, func(registration.Owner) Liveness { return Alive })
	for store, want := range map[string][]string{"s": {"a", "c"}, "t": {"a", "b", "c"}, "u": {"c"}} {
		var got []string
		for _, m := range all.Of(store).rendezvous.shares {
			got = append(got, m.name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s is shared among %v, want %v", store, got, want)
		}
	}
}
