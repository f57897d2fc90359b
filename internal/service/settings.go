package service

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// settings are the configuration's tuning block, as the rules take it.
func settings(c *config.Config) proxy.Settings {
	t := c.SubscriptionProxy
	return proxy.Settings{
		Breaker: breaker.Settings{
			MaxFailures: t.MaxConsecutiveFailures, DegradedFailures: t.FailureNotificationThreshold,
			Exponential: t.EnableExponentialBackoff, Retry: t.RetryReregisterInterval, MaxBackoff: t.MaxBackoffInterval,
		},
		InitialInterval: t.InitialReregisterInterval, NormalInterval: t.NormalReregisterInterval,
		Verify: t.EnableRegistrationVerification, VerificationTimeout: t.VerificationTimeout,
		EventDriven:       t.EnableClusterEventSubscriptions,
		HeartbeatInterval: c.Status.HeartbeatInterval, SummaryInterval: c.Status.SummaryInterval,
		StalledAfter: c.Status.StalledAfter, EmitterSilentAfter: c.Status.EmitterSilentAfter,
	}
}

func subscriptions(c *config.Config) []subscription.Subscription {
	var all []subscription.Subscription
	for _, store := range c.Stores {
		for _, s := range store.Subscriptions {
			one := configured(store.ID, &s)
			one.StartVersion = s.StartVersion
			if s.Forward != nil && s.Forward.OnGap == string(subscription.Pause) {
				one.OnGap = subscription.Pause
			}
			all = append(all, one)
		}
	}
	return all
}

// reloadTimeout bounds the look for the streams that stream sinks need.
const reloadTimeout = 5 * time.Second

// Reload takes over a configuration, already checked: added subscriptions start, removed ones are released,
// changed ones restart, the rest don't notice. What can only be set at the start must be as it was, or
// nothing changes.
func (s *Service) Reload(c *config.Config) error {
	old := s.cfg.Load()
	for _, fixed := range []struct {
		key      string
		was, new any
	}{
		{"nats", old.NATS, c.NATS}, {"instance", old.Instance, c.Instance}, {"registry", old.Registry, c.Registry}, {"http", old.HTTP, c.HTTP}, {"log", old.Log, c.Log}, {"metrics", old.Metrics, c.Metrics}, {"emitter", old.Emitter, c.Emitter}, {"parked", old.Parked, c.Parked}, {"delivery", old.Delivery, c.Delivery},
	} {
		if !reflect.DeepEqual(fixed.was, fixed.new) {
			return fmt.Errorf("%s changed: that takes a restart; nothing was changed", fixed.key)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), reloadTimeout)
	defer cancel()
	if err := s.checkSinks(ctx, c); err != nil {
		return fmt.Errorf("%w; nothing was changed", connect.Explain(err))
	}
	if err := s.instance.Listen(events(c)); err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	s.sayOthers(old, c)
	s.cfg.Store(c)
	s.sinks.configure(c)
	s.instance.Delivery().Refresh()
	s.instance.Configure(settings(c))
	s.instance.Apply(ctx, subscriptions(c))
	if !reflect.DeepEqual(old.Bridge, c.Bridge) {
		s.work.Go(func() { s.warnOfBridges(c) })
	}
	return nil
}
