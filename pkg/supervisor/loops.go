package supervisor

import (
	"maps"
	"slices"
	"sync"

	"github.com/exesdb/subproxy/pkg/subscription"
)

// loops are those of an instance, one a store. Add and remove need the mutex held; the other methods take
// it.
type loops struct {
	mu      sync.RWMutex
	byStore map[string]*loop
	byToken map[string]*loop // by the store's token in keys
}

func newLoops() *loops { return &loops{byStore: map[string]*loop{}, byToken: map[string]*loop{}} }

func (ls *loops) add(l *loop) {
	ls.byStore[l.store], ls.byToken[subscription.EncodeToken(l.store)] = l, l
}

func (ls *loops) remove(l *loop) {
	delete(ls.byStore, l.store)
	delete(ls.byToken, subscription.EncodeToken(l.store))
}

// of is the store's; nil: none.
func (ls *loops) of(store string) *loop {
	ls.mu.RLock()
	defer ls.mu.RUnlock()
	return ls.byStore[store]
}

// ofToken is the loop of the store with that token in keys; nil: none.
func (ls *loops) ofToken(token string) *loop {
	ls.mu.RLock()
	defer ls.mu.RUnlock()
	return ls.byToken[token]
}

// some are the store's, if it has one, or all where store is empty.
func (ls *loops) some(store string) []*loop {
	ls.mu.RLock()
	defer ls.mu.RUnlock()
	if store == "" {
		return slices.Collect(maps.Values(ls.byStore))
	}
	if l := ls.byStore[store]; l != nil {
		return []*loop{l}
	}
	return nil
}

// post has every loop do a task.
func (ls *loops) post(t task) {
	for _, l := range ls.some("") {
		l.inbox.post(t)
	}
}
