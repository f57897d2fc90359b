package service

import (
	"context"
	"fmt"

	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/registry"
)

func (s *Service) clusterConfig() registry.Config {
	c := s.bucketConfig()
	c.Kind, c.Bucket = registry.Cluster, ""
	return c
}

// join opens this instance's session, and follows those of the others until ctx ends.
func (s *Service) join(ctx context.Context) error {
	follower, err := cluster.NewFollower(s.js, s.cluster, s.log)
	if err != nil {
		return err
	}
	s.members, err = cluster.NewMembership(cluster.MembershipConfig{
		Follower: follower, Logger: s.log,
		OnChange: func(v *cluster.View) { s.supervisor.Alive(v.Alive) },
	})
	if err != nil {
		return err
	}
	s.session, err = cluster.OpenSession(cluster.SessionConfig{
		Owner: s.owner, Follower: follower, Version: s.version, TTL: s.cfg.Load().Instance.SessionTTL, Logger: s.log,
		Ensure: func(ctx context.Context) error {
			_, err := s.cluster.Ensure(ctx, s.clusterConfig())
			return err
		},
	})
	if err != nil {
		return fmt.Errorf("open the instance's session: %w", err)
	}
	s.work.Go(func() {
		if err := follower.Run(ctx); err != nil {
			s.log.Error("sessions are no longer followed", "error", err)
		}
	})
	s.work.Go(func() { _ = s.members.Run(ctx) }) // it returns nil
	return nil
}

// leave gives the session back, once everything is released.
func (s *Service) leave(ctx context.Context) {
	if s.session == nil {
		return
	}
	if err := s.session.Close(ctx); err != nil {
		s.log.Debug("close the session", "error", err)
	}
}
