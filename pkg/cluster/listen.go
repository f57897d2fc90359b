package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/subscription"
)

// Bridged is a JetStream stream whose RAFT leader's election stands for a cluster event.
type Bridged struct {
	Stream string
	Store  string // empty: every store
	Kind   Kind
}

// Config says what to listen to.
type Config struct {
	LeaderChangedSubject    string // empty: not listened to
	EmitterRestartedSubject string // empty: not listened to
	Bridge                  []Bridged
	// Domain is the JetStream domain that has the streams. Elections of another domain's are not heard: its
	// advisories cross the link of a leaf node. Nil: not known, and all are heard.
	Domain *string
	// Deleted, where set, names a stream whose deletion is told to OnDeleted.
	Deleted string

	// OnEvent and OnDeleted are called from NATS's goroutines and must not block.
	OnEvent   func(Event)
	OnDeleted func()
	Logger    *slog.Logger
}

// Listener listens until it is closed. It outlives reconnects, as subscriptions do.
type Listener struct {
	cfg  Config
	nc   *nats.Conn
	subs []*nats.Subscription

	mu        sync.Mutex
	elections sightings // the last events made from advisories
	announced sightings // the last events heard on a subject
	warnedAt  time.Time // of the last malformed body logged
}

// sighting identifies an event. One advisory can be bridged to several.
type sighting struct {
	id, store string
	kind      Kind
}

// sightings are the last few.
type sightings struct {
	last [32]sighting
	next int
}

func (s *sightings) add(one sighting) {
	s.last[s.next%len(s.last)], s.next = one, s.next+1
}

// JetStream's advisories; the stream's name follows. Source: nats-server, JSAdvisoryStreamLeaderElectedPre
// and JSAdvisoryStreamDeletedPre.
const (
	leaderElected = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED."
	streamDeleted = "$JS.EVENT.ADVISORY.STREAM.DELETED."
)

// bridgeQueue lets one of all instances publish what an advisory stands for; each of them acts on it by
// itself. Where a stream is bridged to several stores, each of these has its own queue, or only one would
// be told.
func bridgeQueue(b Bridged) string {
	return "exesdb-bridge-" + string(b.Kind) + "-" + subscription.EncodeToken(b.Store)
}

// malformedLogInterval is how often a malformed body is logged at the most.
const malformedLogInterval = time.Minute

// Listen subscribes to everything that cfg names.
func Listen(nc *nats.Conn, cfg Config) (*Listener, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Listener{cfg: cfg, nc: nc}
	if err := l.subscribe(); err != nil {
		return nil, errors.Join(fmt.Errorf("listen to the cluster: %w", err), l.Close())
	}
	return l, nil
}

func (l *Listener) subscribe() error {
	errs := []error{
		l.add(l.cfg.LeaderChangedSubject, "", func(m *nats.Msg) { l.heard(LeaderChanged, m) }),
		l.add(l.cfg.EmitterRestartedSubject, "", func(m *nats.Msg) { l.heard(EmitterRestarted, m) }),
	}
	for _, b := range l.cfg.Bridge {
		errs = append(errs,
			l.add(leaderElected+b.Stream, "", func(m *nats.Msg) { l.elected(b, m) }),
			l.add(leaderElected+b.Stream, bridgeQueue(b), func(m *nats.Msg) { l.announceElection(b, m) }))
	}
	if l.cfg.Deleted != "" {
		errs = append(errs, l.add(streamDeleted+l.cfg.Deleted, "", func(*nats.Msg) { l.cfg.OnDeleted() }))
	}
	return errors.Join(errs...)
}

func (l *Listener) add(subject, queue string, handle nats.MsgHandler) error {
	if subject == "" {
		return nil
	}
	sub, err := l.nc.QueueSubscribe(subject, queue, handle)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	l.subs = append(l.subs, sub)
	// A flood must not drop the last event of all: what it costs here is a decode, so let it queue.
	return sub.SetPendingLimits(-1, 64<<20)
}

// Close ends all subscriptions.
func (l *Listener) Close() error {
	var errs []error
	for _, sub := range l.subs {
		errs = append(errs, sub.Unsubscribe())
	}
	l.subs = nil
	return errors.Join(errs...)
}

func (l *Listener) heard(kind Kind, m *nats.Msg) {
	e := Decode(kind, m.Data, time.Now())
	if !l.isNews(e, &l.announced, &l.elections) {
		return
	}
	if e.Malformed || e.BadTerm {
		l.warnMalformed(e, m)
	}
	l.cfg.OnEvent(e)
}

func (l *Listener) warnMalformed(e Event, m *nats.Msg) {
	l.mu.Lock()
	due := time.Since(l.warnedAt) >= malformedLogInterval
	if due {
		l.warnedAt = time.Now()
	}
	l.mu.Unlock()
	if !due {
		return
	}
	problem := "a cluster event could not be read and is taken to mean every store"
	if !e.Malformed {
		problem = fmt.Sprintf("a cluster event has a term that is no number from 1 to %d, and counts without it",
			uint64(MaxAnnouncedTerm))
	}
	l.cfg.Logger.Warn(problem+"; others like it within a minute are only counted",
		"subject", m.Subject, "body", string(m.Data[:min(len(m.Data), 200)]))
}

// advisory is what is used of JetStream's leader-elected advisory.
type advisory struct {
	ID     string `json:"id"`
	Leader string `json:"leader"`
	Domain string `json:"domain"` // empty: it has no name
}

func (l *Listener) elected(b Bridged, m *nats.Msg) {
	if l.isElsewhere(m) {
		return
	}
	if e := election(b, m); l.isNews(e, &l.elections, &l.announced) {
		l.cfg.OnEvent(e)
	}
}

// isElsewhere reports whether the advisory is of another domain. One that can't be read is not.
func (l *Listener) isElsewhere(m *nats.Msg) bool {
	var a advisory
	return l.cfg.Domain != nil && json.Unmarshal(m.Data, &a) == nil && a.Domain != *l.cfg.Domain
}

func election(b Bridged, m *nats.Msg) Event {
	var a advisory
	// An advisory that can't be read still says that a leader was elected.
	_ = json.Unmarshal(m.Data, &a)
	e := Event{Kind: b.Kind, ID: a.ID, Store: b.Store, SeenAt: time.Now()}
	e.Reason = fmt.Sprintf("JetStream elected %s leader of stream %s", a.Leader, b.Stream)
	if b.Kind == EmitterRestarted {
		e.Emitter = a.Leader
	} else if b.Store != "" {
		e.Leader = a.Leader
	}
	return e
}

func (l *Listener) announceElection(b Bridged, m *nats.Msg) {
	if l.isElsewhere(m) {
		return
	}
	e := election(b, m)
	if err := l.Announce(e); err != nil {
		l.cfg.Logger.Warn("an election could not be announced to the others",
			"stream", b.Stream, "error", err)
	}
}

// Announce publishes an event on its subject, where that is listened to.
func (l *Listener) Announce(e Event) error {
	subject := l.cfg.LeaderChangedSubject
	if e.Kind == EmitterRestarted {
		subject = l.cfg.EmitterRestartedSubject
	}
	if subject == "" {
		return nil
	}
	return Announce(l.nc, subject, e)
}

// Announce publishes an event on a subject.
func Announce(nc *nats.Conn, subject string, e Event) error {
	data, err := e.Encode()
	if err == nil {
		err = nc.Publish(subject, data)
	}
	if err != nil {
		return fmt.Errorf("announce %s: %w", e.Kind, err)
	}
	return nil
}

// isNews notes an event as seen here, and reports whether it was not seen there. An election comes twice,
// as the advisory and as the announcement that one of the instances makes of it, in either order: they are
// different subscriptions. What comes twice on the same way is not looked at, since a store may send every
// event with the same id.
func (l *Listener) isNews(e Event, here, there *sightings) bool {
	if e.ID == "" {
		return true
	}
	one := sighting{id: e.ID, store: e.Store, kind: e.Kind}
	l.mu.Lock()
	defer l.mu.Unlock()
	here.add(one)
	return !slices.Contains(there.last[:], one)
}
