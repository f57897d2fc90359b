package service

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/kv"
)

// reach makes sure that a JetStream of another domain or account can be used for everything, where one is
// configured: that it answers shows only that a part is imported.
func reach(ctx context.Context, js jetstream.JetStream, c *config.Config) error {
	if feed.Prefix(js) == jetstream.DefaultAPIPrefix {
		return nil
	}
	var all []error
	for _, b := range []kv.Config{bucketConfig(c), clusterConfig(c)} {
		bucket, err := kv.Open(ctx, js, b)
		if err == nil {
			err = bucket.Reach(ctx)
		}
		all = append(all, err)
	}
	parked, err := deadletter.Open(ctx, js, parkedConfig(c))
	if err == nil {
		err = parked.Reach(ctx)
	}
	return elsewhere(js, errors.Join(append(all, err)...))
}

// elsewhere adds to an error which JetStream is configured, where it is not the server's own.
func elsewhere(js jetstream.JetStream, err error) error {
	switch o := js.Options(); {
	case err == nil:
		return nil
	case o.APIPrefix != "":
		return fmt.Errorf("JetStream of API prefix %s (nats.api_prefix): %w", o.APIPrefix, err)
	case o.Domain != "":
		return fmt.Errorf("JetStream of domain %s (nats.domain): %w", o.Domain, err)
	}
	return err
}
