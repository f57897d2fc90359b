package service

import (
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/kv"
)

// What is created is created so. The bucket of checkpoints and the stream of parked events are as the
// registry, key by key, but for what their own sections say.

const (
	asRegistry = "registry"
	inMemory   = "memory"
	compressed = "s2"
)

func bucketConfig(c *config.Config) kv.Config {
	r := &c.Registry
	return kv.Config{
		Kind: kv.Registrations, Bucket: r.Bucket, Replicas: r.Replicas, Memory: r.Storage == inMemory, Storage: storage(r.MaxBytes, r.Compression, r.Placement),
		AckWait: c.SubscriptionProxy.VerificationTimeout, Records: len(subscriptions(c)),
	}
}

func clusterConfig(c *config.Config) kv.Config {
	cfg := bucketConfig(c)
	cfg.Kind, cfg.Bucket, cfg.Records = kv.Cluster, "", 0
	return cfg
}

func checkpointConfig(c *config.Config) kv.Config {
	cfg, e := bucketConfig(c), &c.Emitter
	cfg.Kind, cfg.Bucket = kv.Checkpoints, ""
	cfg.Replicas, cfg.Memory, cfg.Storage = unlike(cfg, e.Replicas, e.Storage, e.MaxBytes, e.Compression, e.Placement)
	return cfg
}

func parkedConfig(c *config.Config) (cfg deadletter.Config) {
	p := &c.Parked
	cfg.Replicas, cfg.Memory, cfg.Storage = unlike(bucketConfig(c), p.Replicas, p.Storage, p.MaxBytes, p.Compression, p.Placement)
	return cfg
}

// streamConfig is a store's stream as the emitter opens it.
func streamConfig(s *config.Store) emitter.StreamConfig {
	to := &s.Stream
	return emitter.StreamConfig{
		Store: s.ID, Name: to.Name, Replicas: to.Replicas, Memory: to.Storage == inMemory, Storage: storage(to.MaxBytes, to.Compression, to.Placement),
	}
}

func storage(maxBytes int64, compression string, p config.Placement) feed.Storage {
	return feed.Storage{MaxBytes: maxBytes, Compressed: compression == compressed, Placement: placement(p)}
}

func placement(p config.Placement) *jetstream.Placement {
	if p == (config.Placement{}) {
		return nil
	}
	tags := strings.FieldsFunc(p.Tags, func(r rune) bool { return r == ',' || r == ' ' })
	return &jetstream.Placement{Cluster: p.Cluster, Tags: tags}
}

// unlike is the registry's, but for what is given.
func unlike(r kv.Config, replicas int, store string, maxBytes int64, compression string, p config.Placement) (int, bool, feed.Storage) {
	to := r.Storage
	if replicas == 0 {
		replicas = r.Replicas
	}
	memory := store == inMemory || (store == "" || store == asRegistry) && r.Memory
	if maxBytes > 0 {
		to.MaxBytes = maxBytes
	}
	if compression != "" && compression != asRegistry {
		to.Compressed = compression == compressed
	}
	if own := placement(p); own != nil {
		to.Placement = own
	}
	return replicas, memory, to
}
