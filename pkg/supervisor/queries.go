package supervisor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

// Ready reports whether each proxy's first attempt has ended, well or not, or it stands by.
func (s *Supervisor) Ready(ctx context.Context) bool {
	if s.attempted.Load() {
		return true
	}
	if !s.hasBegun() {
		return false
	}
	summaries, err := s.Summaries(ctx)
	if err != nil {
		return false
	}
	for i := range summaries {
		if summaries[i].Unknown > 0 {
			return false
		}
	}
	s.attempted.Store(true)
	return true
}

// Statuses returns the statuses of the proxies that the request names.
func (s *Supervisor) Statuses(ctx context.Context, r control.Request) ([]status.Status, error) {
	statuses, err := gather(ctx, s, r.Store, func(l *loop, reply func([]status.Status)) { l.begin(l.reporter.statuses(r, reply)) })
	slices.SortFunc(statuses, func(a, b status.Status) int {
		return cmp.Or(cmp.Compare(a.Store, b.Store), cmp.Compare(a.Name, b.Name))
	})
	return statuses, err
}

// Summaries returns a summary a store.
func (s *Supervisor) Summaries(ctx context.Context) ([]status.Summary, error) {
	return gather(ctx, s, "", func(l *loop, reply func([]status.Summary)) {
		l.begin(l.reporter.summary(slices.Clone(l.items), func(s status.Summary) { reply([]status.Summary{s}) }))
	})
}

// Holds reports how many proxies the request names that this instance holds, that is, which do not stand
// by.
func (s *Supervisor) Holds(ctx context.Context, store, name string) (int, error) {
	counts, err := gather(ctx, s, store, func(l *loop, reply func([]int)) { reply([]int{len(l.held(name))}) })
	n := 0
	for _, c := range counts {
		n += c
	}
	return n, err
}

// Knows reports whether any proxy that the request names is configured here, held or not. Of a store
// without a name: any of it.
func (s *Supervisor) Knows(ctx context.Context, store, name string) (bool, error) {
	counts, err := gather(ctx, s, store, func(l *loop, reply func([]int)) { reply([]int{len(l.named(name))}) })
	return slices.ContainsFunc(counts, func(n int) bool { return n > 0 }), err
}

// Reregister registers the named proxies anew, now, and returns their statuses when those attempts have
// ended.
func (s *Supervisor) Reregister(ctx context.Context, store, name string) ([]status.Status, error) {
	return s.act(ctx, store, name, proxy.Input{Kind: proxy.Event, Cause: registration.Manual})
}

// Restart stops the named proxy and starts it anew, with a new incarnation and deliver subject, and returns
// its status when the registration that follows has ended.
func (s *Supervisor) Restart(ctx context.Context, store, name string) ([]status.Status, error) {
	return s.act(ctx, store, name, proxy.Input{Kind: proxy.Restart})
}

// ResetTerm begins a store's count of terms again, from the one given, and restarts the proxies that it is
// held by here: their receivers and registrations have the term of before. It returns that term, and their
// statuses when the registrations that follow have ended. Where the store is unknown here, known is false.
func (s *Supervisor) ResetTerm(ctx context.Context, store string, to uint64) (before uint64, statuses []status.Status, known bool, err error) {
	loops := s.loops.some(store)
	if store == "" || len(loops) == 0 {
		return 0, nil, false, nil
	}
	l, reply := loops[0], make(chan []status.Status, 1)
	before = l.inbox.fence.Reset(to, time.Now())
	l.log.Warn("the count of terms begins again, as an operator asked", "term", to, "before", before)
	l.inbox.postUrgent(func(l *loop, _ time.Time) { l.act("", proxy.Input{Kind: proxy.Restart}, reply) })
	statuses, err = collect(ctx, []chan []status.Status{reply})
	return before, statuses, true, err
}

func (s *Supervisor) act(ctx context.Context, store, name string, in proxy.Input) ([]status.Status, error) {
	var replies []chan []status.Status
	for _, l := range s.loops.some(store) {
		reply := make(chan []status.Status, 1)
		replies = append(replies, reply)
		l.inbox.postUrgent(func(l *loop, _ time.Time) { l.act(name, in, reply) })
	}
	return collect(ctx, replies)
}

// gather has loops tell something.
func gather[T any](ctx context.Context, s *Supervisor, store string, tell func(l *loop, reply func([]T))) ([]T, error) {
	var replies []chan []T
	for _, l := range s.loops.some(store) {
		reply := make(chan []T, 1)
		replies = append(replies, reply)
		l.inbox.postUrgent(func(l *loop, _ time.Time) { tell(l, func(part []T) { reply <- part }) })
	}
	return collect(ctx, replies)
}

func collect[T any](ctx context.Context, replies []chan []T) ([]T, error) {
	all := []T{} // in JSON nothing is an empty list, and not null
	for _, reply := range replies {
		select {
		case part := <-reply:
			all = append(all, part...)
		case <-ctx.Done():
			return all, fmt.Errorf("the proxies did not answer in time: %w", ctx.Err())
		}
	}
	return all, nil
}
