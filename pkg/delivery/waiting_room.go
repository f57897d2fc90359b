package delivery

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// waitingRoom is the memory for events that wait for their sinks, of all endpoints together, in three
// parts. One half of it is for endpoints whose sink failed last, so that subscribers who are away hold up
// nobody else; an eighth is for small events of all others, so that these wait for no line of large ones.
// An event without room is not taken. Its endpoint waits for its turn, and its emitter is asked for the
// event then: there is room promised for it.
//
// Invariant: what a part holds and has promised is no more than the part, or one event. It is safe for
// concurrent use.
type waitingRoom struct {
	freed chan struct{} // holds one signal: an endpoint that waits may have its turn; never closed

	mu      sync.Mutex
	parts   [partCount]part
	held    int64 // bytes; what several endpoints hold counts once
	holders map[*byte]*[partCount]int
}

// The parts of the memory.
const (
	fresh    = iota
	retrying // endpoints whose last attempt failed
	small    // small events of the others, where there is room; nobody waits for it
	partCount
)

// part is one of them.
type part struct {
	limit, used int64
	line        []ticket // those that wait, in order, and some that don't any more
	waiting     int
	promises    []ticket // in order, and some that are kept
}

// ticket is a place in a line. It is no good once the endpoint's seat has another number.
type ticket struct {
	of     *queue
	number uint64
	until  time.Time // of a promise
}

// seat is an endpoint in the waiting room, whose mutex guards it.
type seat struct {
	part   int // of what it takes next
	stands standing
	number uint64 // of its ticket
	in     int    // the part that it waits in, or was promised room in
	need   int64  // bytes of the event that it waits for
}

type standing uint8

const (
	seated   standing = iota // it takes what comes, while there is room
	waits                    // for its turn
	promised                 // it had its turn, and its emitter is asked
	rests                    // it has nothing in memory: it will wait for a turn when its sink may take an event
)

// load is the memory that an event takes.
type load struct {
	own   int64 // what is its endpoint's alone
	data  int64
	first *byte // of the data, by which others that hold it too are known; nil: nobody else has it
}

const (
	// eventBytes and headerBytes are what an event, and each of its headers, takes beside what it is on the
	// wire.
	eventBytes  = 1024
	headerBytes = 100
	// smallEvent is the most that a small one takes.
	smallEvent = 16 << 10
	// promiseFor is how long room is kept for an event that was asked for. Then its emitter has to ask.
	// Hundreds of large events that are asked for at once take seconds to come, and one that comes too late
	// is sent in vain.
	promiseFor = 10 * time.Second
)

// loadOf is what a message takes. Its data are shared where other endpoints may hold them too.
func loadOf(m *nats.Msg, shared bool) load {
	l := load{own: eventBytes + int64(headerBytes*len(m.Header)+m.Size()-len(m.Data)), data: int64(len(m.Data))}
	if shared && len(m.Data) > 0 {
		l.first = &m.Data[0]
	}
	return l
}

func newWaitingRoom(budget int64) *waitingRoom {
	m := &waitingRoom{freed: make(chan struct{}, 1), holders: map[*byte]*[partCount]int{}}
	m.parts[retrying].limit, m.parts[small].limit = budget/2, budget/8
	m.parts[fresh].limit = budget - m.parts[retrying].limit - m.parts[small].limit
	return m
}

func (m *waitingRoom) bytes() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held
}

// refusal is what becomes of an endpoint whose event there is no room for.
type refusal uint8

const (
	stays  refusal = iota // as it was: the event is of a sender that can't be asked for it
	queues                // it waits for a turn
	pauses                // it rests, until its sink has found out that somebody listens
)

// hold takes up an event, or refuses it.
func (m *waitingRoom) hold(of *queue, q *queued, otherwise refusal) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &of.seat
	turn := s.stands == promised
	switch q.part = s.part; {
	case turn:
		q.part = s.in
		m.drop(s)
	case s.stands != seated:
		return false
	}
	if q.part == fresh && !turn && q.load.own+q.load.data <= smallEvent {
		if p := &m.parts[small]; p.used+m.cost(small, &q.load) <= p.limit {
			q.part = small
			m.add(q)
			return true
		}
	}
	h := &m.parts[q.part]
	if (turn || h.waiting == 0) && h.fits(m.cost(q.part, &q.load)) {
		m.add(q)
		return true
	}
	if otherwise == stays {
		return false
	}
	s.need = q.load.own + q.load.data
	if otherwise == queues {
		m.enqueue(of)
	} else {
		s.stands = rests
	}
	return false
}

func (h *part) fits(bytes int64) bool { return h.used == 0 || h.used+bytes <= h.limit }

// cost is what an event adds to a part.
func (m *waitingRoom) cost(part int, l *load) int64 {
	if l.first != nil {
		if n := m.holders[l.first]; n != nil && n[part] > 0 {
			return l.own
		}
	}
	return l.own + l.data
}

func (m *waitingRoom) add(q *queued) {
	m.parts[q.part].used += m.cost(q.part, &q.load)
	m.held += q.load.own
	if q.load.first == nil {
		m.held += q.load.data
		return
	}
	n := m.holders[q.load.first]
	if n == nil {
		n = &[partCount]int{}
		m.held += q.load.data
		m.holders[q.load.first] = n
	}
	n[q.part]++
}

func (m *waitingRoom) remove(q *queued) {
	if q.load.first == nil {
		m.parts[q.part].used -= q.load.own + q.load.data
		m.held -= q.load.own + q.load.data
		return
	}
	n := m.holders[q.load.first]
	n[q.part]--
	m.parts[q.part].used -= m.cost(q.part, &q.load)
	m.held -= q.load.own
	if *n == [partCount]int{} {
		m.held -= q.load.data
		delete(m.holders, q.load.first)
	}
}

// release gives back what events took.
func (m *waitingRoom) release(all ...queued) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range all {
		m.remove(&all[i])
	}
	m.signal()
}

func (m *waitingRoom) signal() {
	if m.parts[fresh].waiting+m.parts[retrying].waiting > 0 {
		m.wake()
	}
}

// wake has the dispatcher look whose turn it is, and which promises have lapsed.
func (m *waitingRoom) wake() {
	select {
	case m.freed <- struct{}{}:
	default:
	}
}

// retries notes that an endpoint's sink failed, and reports whether the endpoint may keep its events. It
// may not where there is no room for them in the other part, or others wait for theirs: then it rests.
func (m *waitingRoom) retries(of *queue) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &of.seat
	h := &m.parts[retrying]
	if s.stands == waits && s.in == fresh {
		m.drop(s)
		s.part = retrying
		m.enqueue(of)
	}
	s.part = retrying
	others, more := h.waiting, int64(0)
	if s.stands == waits {
		others--
	}
	for i := range of.events {
		if q := &of.events[i]; q.part != retrying {
			more += m.cost(retrying, &q.load)
		}
	}
	if others > 0 || more > 0 && h.used+more > h.limit && (h.used > 0 || len(of.events) > 1) {
		m.drop(s)
		s.stands, s.need = rests, of.events[0].load.own+of.events[0].load.data
		return false
	}
	for i := range of.events {
		if q := &of.events[i]; more > 0 && q.part != retrying {
			m.remove(q)
			q.part = retrying
			m.add(q)
		}
	}
	if more > 0 {
		m.signal()
	}
	return true
}

// accepts notes that an endpoint's sink takes events.
func (m *waitingRoom) accepts(of *queue) {
	m.mu.Lock()
	defer m.mu.Unlock()
	of.seat.part = fresh
}

// await ends an endpoint's rest: it waits for its turn.
func (m *waitingRoom) await(of *queue) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if of.seat.stands == rests {
		m.enqueue(of)
		m.signal()
	}
}

// leave is for an endpoint that takes nothing more.
func (m *waitingRoom) leave(of *queue) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(&of.seat)
	m.signal()
}

// silent reports whether an endpoint's emitter is not to send it anything: it will be asked.
func (m *waitingRoom) silent(of *queue) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return of.seat.stands == waits || of.seat.stands == rests
}

// isResting reports whether an endpoint is to find out whether its sink may take an event.
func (m *waitingRoom) isResting(of *queue) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return of.seat.stands == rests
}

func (m *waitingRoom) enqueue(of *queue) {
	s := &of.seat
	s.stands, s.in = waits, s.part
	s.number++
	h := &m.parts[s.in]
	h.line = append(h.line, ticket{of: of, number: s.number})
	h.waiting++
}

// drop takes an endpoint out of its line, or its promise back.
func (m *waitingRoom) drop(s *seat) {
	switch h := &m.parts[s.in]; s.stands {
	case waits:
		h.waiting--
	case promised:
		h.used -= s.need
	}
	s.stands = seated
	s.number++
}

// next promises room to an endpoint whose turn it is, and returns that endpoint; nil: there is no room, or
// none waits.
func (m *waitingRoom) next(now time.Time) *queue {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.parts {
		h := &m.parts[i]
		for len(h.promises) > 0 && (h.promises[0].void() || !now.Before(h.promises[0].until)) {
			if t := h.promises[0]; !t.void() {
				m.drop(&t.of.seat)
			}
			h.promises[0] = ticket{}
			h.promises = h.promises[1:]
		}
		for len(h.line) > 0 && h.line[0].void() {
			h.line[0] = ticket{}
			h.line = h.line[1:]
		}
		if len(h.line) == 0 {
			h.line = nil
			continue
		}
		t := h.line[0]
		s := &t.of.seat
		if !h.fits(s.need) {
			continue
		}
		h.line[0] = ticket{}
		h.line = h.line[1:]
		h.waiting--
		h.used += s.need
		s.stands = promised
		t.until = now.Add(promiseFor)
		h.promises = append(h.promises, t)
		return t.of
	}
	return nil
}

func (t *ticket) void() bool { return t.of.seat.number != t.number }
