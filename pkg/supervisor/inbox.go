package supervisor

import (
	"sync"
	"time"

	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

// Cluster is what happened in the cluster, as far as one store's proxies care.
type Cluster struct {
	Cause  registration.Cause // LeaderChanged, EmitterRestarted, Reconnected or Lost
	Topic  string             // narrows EmitterRestarted; empty: every subscription
	Term   uint64             // of LeaderChanged; 0: unknown
	Jumps  bool               // its term may be far above the last without being a mistake
	Leader string
	SeenAt time.Time
}

// maxTopics is how many topics a merged event names before it means every subscription.
const maxTopics = 64

// merged is any number of cluster events, merged into one that has not been acted on.
type merged struct {
	pending bool
	cause   registration.Cause // of the first
	seenAt  time.Time          // of the first: latency counts from there
	topics  []string           // nil: every subscription
}

// inbox is where a store's loop is told things, by any goroutine. It never blocks and never grows with the
// number of cluster events: they merge. What else comes is bounded by what the loop itself asked for, and
// by the bucket's entries.
type inbox struct {
	wake chan struct{} // holds one signal; never closed

	fence *delivery.Fence

	mu       sync.Mutex
	leader   string // named last
	lease    lease  // renewed last
	events   merged
	news     []kv.Entry
	voided   bool
	results  []result
	tasks    []task
	urgent   []task
	applying int // changes of which proxies there are that were posted, and are not done
}

func newInbox(f *delivery.Fence) *inbox {
	return &inbox{wake: make(chan struct{}, 1), fence: f}
}

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// event merges a cluster event into what is pending. Stale is a term below the one known: nothing happens.
func (b *inbox) event(c Cluster) (stale, coalesced bool) {
	defer b.signal()
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.Term > 0 && c.Term < b.fence.Term() {
		return true, false
	}
	b.fence.Raise(c.Term)
	if c.Leader != "" {
		b.leader = c.Leader
	}
	e := &b.events
	if !e.pending {
		*e = merged{pending: true, cause: c.Cause, seenAt: c.SeenAt}
		if c.Topic != "" {
			e.topics = []string{c.Topic}
		}
		return false, false
	}
	e.add(c.Topic)
	return false, true
}

func (e *merged) add(topic string) {
	switch {
	case e.topics == nil:
	case topic == "" || len(e.topics) >= maxTopics:
		e.topics = nil
	default:
		for _, t := range e.topics {
			if t == topic {
				return
			}
		}
		e.topics = append(e.topics, topic)
	}
}

func (b *inbox) entry(e kv.Entry) {
	b.mu.Lock()
	b.news = append(b.news, e)
	b.mu.Unlock()
	b.signal()
}

// void says that the bucket is new: entries that came before say nothing about it.
func (b *inbox) void() {
	b.mu.Lock()
	b.news, b.voided = nil, true
	b.mu.Unlock()
	b.signal()
}

func (b *inbox) finished(results []result) {
	b.mu.Lock()
	b.results = append(b.results, results...)
	b.mu.Unlock()
	b.signal()
}

// post has the loop do a task, in its order.
func (b *inbox) post(t task) {
	b.mu.Lock()
	b.tasks = append(b.tasks, t)
	b.mu.Unlock()
	b.signal()
}

// postApply is post for what changes which proxies there are. The task sees to it that applied is called
// once that is done.
func (b *inbox) postApply(t task) {
	b.mu.Lock()
	b.applying++
	b.tasks = append(b.tasks, t)
	b.mu.Unlock()
	b.signal()
}

// applied notes that a change of which proxies there are is done.
func (b *inbox) applied() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.applying--
}

// postUrgent is post for what may overtake everything but earlier changes of which proxies there are. It
// must not change that itself.
func (b *inbox) postUrgent(t task) {
	b.mu.Lock()
	if b.applying > 0 {
		b.tasks = append(b.tasks, t)
	} else {
		b.urgent = append(b.urgent, t)
	}
	b.mu.Unlock()
	b.signal()
}

func (b *inbox) takeUrgent() []task {
	b.mu.Lock()
	defer b.mu.Unlock()
	urgent := b.urgent
	b.urgent = nil
	return urgent
}

// leads notes that an emitter renewed its lease. That is no reason to wake the loop, four times a TTL.
func (b *inbox) leads(by lease) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lease = by
}

func (b *inbox) renewed() sign {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lease.sign
}

// leadership is the highest term heard of, and its leader, where that was named. A lease names it too.
func (b *inbox) leadership() (term uint64, leader string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if term = b.fence.Term(); b.lease.term >= term && b.lease.by != "" {
		return b.lease.term, b.lease.by
	}
	return term, b.leader
}

func (b *inbox) eventPending() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.events.pending
}

// contents is all there was, but for the cluster events.
type contents struct {
	news    []kv.Entry
	voided  bool
	results []result
	tasks   []task
}

// empty empties the inbox; cluster events stay and go on merging until they are asked for.
func (b *inbox) empty() contents {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := contents{news: b.news, voided: b.voided, results: b.results, tasks: b.tasks}
	b.news, b.voided, b.results, b.tasks = nil, false, nil, nil
	return t
}

func (b *inbox) takeEvents() merged {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.events
	b.events = merged{}
	return e
}

// task is something that the loop does or tells in its own goroutine.
type task func(*loop, time.Time)

// action waits for the attempts that a control request caused.
type action struct {
	waiting map[*managed]struct{}
	items   []*managed
	filling bool                   // not all of items were stepped
	reply   chan<- []status.Status // holds one; receives once
}
