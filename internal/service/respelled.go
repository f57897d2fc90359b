package service

import (
	"context"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// sayOthers says which names of the configuration stand for another subscription than before. Its
// subscriber gets events that it had from the one before; Exesdb-Subscription tells it which is which.
func (s *Service) sayOthers(old, now *config.Config) {
	type name struct{ store, name string }
	before := map[name]subscription.Subscription{}
	for _, sub := range subscriptions(old) {
		before[name{sub.Store, sub.Name}] = sub
	}
	for _, sub := range subscriptions(now) {
		was, had := before[name{sub.Store, sub.Name}]
		if !had || was.Type == sub.Type && was.Selector == sub.Selector {
			continue
		}
		s.log.Warn("another type or selector is another subscription: unless it has a checkpoint it begins where its start_version says, and its events go where those of the one before went",
			"subscription", sub.String(), "begins_at", sub.StartVersion, "key", sub.Key(), "before", was.Key())
	}
}

// retireRespelled deletes registrations that a version of before wrote, with the selector's JSON spelt in
// another way, of subscriptions that this instance has by now. One that an instance holds which lives is
// left to it.
func (s *Service) retireRespelled() {
	select {
	case <-s.registered:
	case <-s.instance.Followed().Done():
		return
	}
	configured := map[string][]subscription.Subscription{} // with selectors that are JSON, by store
	for _, sub := range subscriptions(s.cfg.Load()) {
		if sub.Type.IsJSON() {
			configured[sub.Store] = append(configured[sub.Store], sub)
		}
	}
	for store, subs := range configured {
		if err := s.retire(s.instance.Followed(), store, subs); err != nil {
			s.log.Debug("registrations under other spellings of their selectors could not be looked for", "store", store, "error", err)
		}
	}
}

func (s *Service) retire(ctx context.Context, store string, subs []subscription.Subscription) error {
	byName := map[string]subscription.Subscription{}
	for _, sub := range subs {
		byName[sub.Name] = sub
	}
	entries, err := s.instance.Registry().List(ctx, store, "")
	if err != nil {
		return err
	}
	view := s.instance.View()
	var writes []kv.Write
	for i := range entries {
		e := &entries[i]
		record, err := registration.Decode(e.Key, e.Data)
		is, mine := byName[record.Name]
		if err != nil || !mine || e.Key == is.Key() || !is.SameAs(record.Subscription) || view.Alive(record.Owner) {
			continue
		}
		writes = append(writes, kv.Write{Key: e.Key, Revision: e.Revision, Incarnation: record.Incarnation})
	}
	for i, r := range s.instance.Registry().Put(ctx, writes) {
		if r.Err == nil {
			s.log.Info("a registration under another spelling of its selector is deleted", "key", writes[i].Key)
		}
	}
	return nil
}
