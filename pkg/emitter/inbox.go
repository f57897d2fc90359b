package emitter

import (
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
)

// inbox is where the loop is told things, by any goroutine. The stream's events are bounded: while the loop
// is behind, the feed waits, and reads later what it then missed.
type inbox struct {
	wake   chan struct{}   // holds one signal; never closed
	stream chan streamItem // never closed

	mu    sync.Mutex
	taken taken
}

// taken is all there was.
type taken struct {
	entries []record // DeliverSubject empty: no longer registered
	answers []answer
	calls   []func()
	first   uint64
}

// answer is what came back on a reply subject.
type answer struct {
	id, session uint64
	nobody      bool // nobody listens on the deliver subject
	event.Answer
}

type streamKind uint8

const (
	isMessage streamKind = iota
	isLevel
	isTrimmed // the stream begins at the sequence, and has nothing between that and what was shown
	isReset
	isSeen
)

type streamItem struct {
	kind     streamKind
	message  feed.Message
	sequence uint64
	reason   error
	seen     []feed.Witness
}

func newInbox() *inbox {
	return &inbox{wake: make(chan struct{}, 1), stream: make(chan streamItem, 4096)}
}

func (b *inbox) tell(change func(*taken)) {
	b.mu.Lock()
	change(&b.taken)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *inbox) empty() taken {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.taken
	b.taken = taken{first: t.first}
	return t
}

func (b *inbox) call(f func()) { b.tell(func(t *taken) { t.calls = append(t.calls, f) }) }

func (b *inbox) setFirst(seq uint64) {
	b.mu.Lock()
	b.taken.first = seq
	b.mu.Unlock()
}

func (b *inbox) registered(rs ...record) {
	b.tell(func(t *taken) { t.entries = append(t.entries, rs...) })
}

// answer takes a message on <prefix>.<id>.<session>.
func (b *inbox) answer(m *nats.Msg) {
	var a answer
	rest, session, ok := cutLast(m.Subject)
	if !ok {
		return
	}
	_, id, _ := cutLast(rest)
	var err1, err2 error
	a.id, err1 = strconv.ParseUint(id, 10, 64)
	a.session, err2 = strconv.ParseUint(session, 10, 64)
	if err1 != nil || err2 != nil {
		return
	}
	if a.Answer, ok = event.ParseAnswer(m.Data); !ok {
		if len(m.Data) > 0 || m.Header.Get("Status") != "503" {
			return // not an answer that a proxy gives
		}
		a.nobody = true
	}
	b.tell(func(t *taken) { t.answers = append(t.answers, a) })
}

func cutLast(subject string) (before, last string, ok bool) {
	i := strings.LastIndexByte(subject, '.')
	if i < 0 {
		return "", subject, false
	}
	return subject[:i], subject[i+1:], true
}

// tailHandler is the inbox as the handler of the stream's feed.
type tailHandler struct {
	*inbox
	done  <-chan struct{}
	shown uint64 // sequence up to which everything was shown
}

func (h *tailHandler) put(item streamItem) {
	select {
	case h.stream <- item:
	case <-h.done:
	}
}

// Message implements feed.Handler.
func (h *tailHandler) Message(m feed.Message) {
	h.shown = m.Sequence
	h.put(streamItem{kind: isMessage, message: m})
}

// Level implements feed.Handler.
func (h *tailHandler) Level(seq uint64) {
	h.shown = seq
	h.put(streamItem{kind: isLevel, sequence: seq})
}

// first is the feed's word where the stream begins.
func (h *tailHandler) first(seq uint64) {
	h.setFirst(seq)
	if seq > h.shown+1 {
		h.shown = seq - 1
		h.put(streamItem{kind: isTrimmed, sequence: seq})
	}
}

func (h *tailHandler) seen(all []feed.Witness) { h.put(streamItem{kind: isSeen, seen: all}) }

// Reset implements feed.Handler.
func (h *tailHandler) Reset(reason error) {
	h.setFirst(0) // of the stream before
	h.shown = 0
	h.put(streamItem{kind: isReset, reason: reason})
}
