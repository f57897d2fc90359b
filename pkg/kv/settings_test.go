package kv

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// right is a bucket's stream as Open takes it.
func right() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "KV_b", Subjects: []string{"$KV.b.>"}, MaxMsgsPerSubject: 1, AllowDirect: true, AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Minute,
		AllowRollup: true, DenyDelete: true, Discard: jetstream.DiscardNew,
		RePublish: &jetstream.RePublish{Source: "$KV.b.>", Destination: "exesdb.registry.>"},
	}
}

// edit does to a stream's configuration what a nats stream edit command does.
func edit(t *testing.T, cfg *jetstream.StreamConfig, command string) {
	t.Helper()
	words := strings.Fields(command)
	if strings.Join(words[:4], " ") != "nats stream edit "+cfg.Name {
		t.Fatalf("the command is %s", command)
	}
	republish := func() *jetstream.RePublish {
		if cfg.RePublish == nil || cfg.RePublish.HeadersOnly {
			cfg.RePublish = &jetstream.RePublish{}
		}
		return cfg.RePublish
	}
	for _, word := range words[4:] {
		flag, value, _ := strings.Cut(word, "=")
		value = strings.Trim(value, "'")
		n, _ := strconv.ParseInt(value, 10, 64)
		d, _ := time.ParseDuration(value)
		switch flag {
		case "--retention":
			cfg.Retention = jetstream.LimitsPolicy
		case "--subjects":
			cfg.Subjects = []string{value}
		case "--no-transform":
			cfg.SubjectTransform = nil
		case "--ack":
			cfg.NoAck = false
		case "--max-msgs-per-subject":
			cfg.MaxMsgsPerSubject = n
		case "--allow-direct":
			cfg.AllowDirect = true
		case "--allow-msg-ttl":
			cfg.AllowMsgTTL = true
		case "--subject-del-markers-ttl":
			cfg.SubjectDeleteMarkerTTL = d
		case "--republish-source":
			republish().Source = value
		case "--republish-destination":
			republish().Destination = value
		case "--max-age":
			cfg.MaxAge = d
		case "--no-discard-per-subject":
			cfg.DiscardNewPerSubject = false
		case "--discard":
			cfg.Discard = jetstream.DiscardNew
		case "--max-msg-size":
			cfg.MaxMsgSize = int32(n)
		case "--max-msgs":
			cfg.MaxMsgs = n
		case "--max-bytes":
			cfg.MaxBytes = n
		default:
			t.Fatalf("flag %s of %s", word, command)
		}
	}
}

func TestWrongSettingsAreNamedAllAtOnceWithTheOneCommandThatMendsThem(t *testing.T) {
	cli, _ := exec.LookPath("nats")
	type config = jetstream.StreamConfig
	for name, c := range map[string]struct {
		spoil    func(*config)
		settings []string
		change   string // what the command shows
	}{
		"history":    {func(c *config) { c.MaxMsgsPerSubject = 5 }, []string{"max_msgs_per_subject 1 (history 1; it has 5)"}, `MaxMsgsPer: 1`},
		"direct get": {func(c *config) { c.AllowDirect = false }, []string{"allow_direct"}, `AllowDirect: true`},
		"TTL":        {func(c *config) { c.AllowMsgTTL, c.SubjectDeleteMarkerTTL = false, 0 }, []string{"allow_msg_ttl"}, `AllowMsgTTL: true`},
		"markers":    {func(c *config) { c.SubjectDeleteMarkerTTL = 0 }, []string{"subject_delete_marker_ttl"}, `SubjectDeleteMarkerTTL: s"1h0m0s"`},
		"republish": {func(c *config) { c.RePublish = nil }, []string{"republish to exesdb.registry.>"},
			`RePublish: &api.RePublish{Source: "$KV.b.>", Destination: "exesdb.registry.>"}`},
		"republish elsewhere":     {func(c *config) { c.RePublish.Destination = "elsewhere.>" }, []string{"republish to exesdb.registry.>", "it has elsewhere.> from"}, `Destination: "exesdb.registry.>"`},
		"republish of a part":     {func(c *config) { c.RePublish.Source = "$KV.b.s.>" }, []string{"republish to exesdb.registry.>"}, `Source: "$KV.b.>"`},
		"republish of everything": {func(c *config) { c.RePublish.Source = ">" }, []string{"from $KV.b.>", "it has exesdb.registry.> from >"}, `Source: "$KV.b.>"`},
		"republish of headers":    {func(c *config) { c.RePublish.HeadersOnly = true }, []string{"republish to exesdb.registry.>"}, `HeadersOnly: false`},
		"a TTL of the bucket":     {func(c *config) { c.MaxAge = 10 * time.Second }, []string{"max_age 0"}, `MaxAge: s"0s"`},
		"no acknowledgements":     {func(c *config) { c.NoAck = true }, []string{"no_ack false"}, `NoAck: false`},
		"interest":                {func(c *config) { c.Retention = jetstream.InterestPolicy }, []string{"retention limits"}, `Retention: s"Limits"`},
		"other subjects":          {func(c *config) { c.Subjects = []string{"$KV.b.s.>"} }, []string{"subjects $KV.b.>"}, `Subjects: []string(Inverse(Sort, []string{"$KV.b.>"}))`},
		"transform": {func(c *config) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "$KV.b.>", Destination: "$KV.b.x.>"}
		}, []string{"no subject_transform"}, `SubjectTransform: nil`},
		"small records":      {func(c *config) { c.MaxMsgSize = 100 }, []string{"max_msg_size of 4096"}, `MaxMsgSize: -1`},
		"few bytes":          {func(c *config) { c.MaxBytes = 100 }, []string{"max_bytes of 75776"}, `MaxBytes: 303104`},
		"few records":        {func(c *config) { c.MaxMsgs = 9 }, []string{"max_msgs of 10"}, `MaxMsgs: -1`},
		"drops the oldest":   {func(c *config) { c.MaxMsgs, c.Discard = 1000, jetstream.DiscardOld }, []string{"discard new"}, `Discard: s"New"`},
		"never written over": {func(c *config) { c.DiscardNewPerSubject = true }, []string{"discard_new_per_subject false"}, `DiscardNewPer: false`},
		"everything": {func(c *config) {
			*c = config{
				Name: "KV_b", Subjects: []string{"$KV.b.s.>"}, NoAck: true, MaxAge: time.Hour, MaxMsgs: 1, MaxBytes: 1000, MaxMsgSize: 10,
				RePublish: &jetstream.RePublish{Source: ">", Destination: "other.>"},
			}
		}, []string{
			"subjects $KV.b.>", "no_ack", "max_msgs_per_subject", "allow_direct", "allow_msg_ttl", "republish to", "max_age", "discard new",
			"max_msg_size", "max_msgs of", "max_bytes of",
		}, `MaxMsgsPer: 1`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, js := startNode(t)
			cfg := right()
			c.spoil(&cfg)
			stream, err := js.CreateStream(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			cfg = stream.CachedInfo().Config
			_, err = Open(t.Context(), js, Config{Bucket: "b", Records: 10})
			var missing *MissingSettingError
			if !errors.As(err, &missing) {
				t.Fatalf("got %v", err)
			}
			for _, setting := range c.settings {
				if !strings.Contains(missing.Setting, setting) {
					t.Errorf("%q is not in %s", setting, missing.Setting)
				}
			}
			if flags := strings.Count(missing.Mend, " --"); len(c.settings) == 1 && flags > 2 {
				t.Errorf("more is mended than is wrong: %s", missing.Mend)
			}
			if missing.Bucket != "b" || missing.Anew || !strings.Contains(err.Error(), missing.Mend) {
				t.Errorf("it says %v", err)
			}
			if cli != "" {
				// On a bucket the command asks for confirmation on a terminal; dry, it shows what it would
				// change, and ends with 1.
				out, _ := exec.CommandContext(t.Context(), "sh", "-c", missing.Mend+" --dry-run --server "+n.URL()).CombinedOutput()
				if shown := strings.Join(strings.Fields(string(out)), " "); !strings.Contains(shown, "Differences") || !strings.Contains(shown, "+ "+c.change) {
					t.Errorf("%s: want + %s in\n%s", missing.Mend, c.change, out)
				}
			}
			edit(t, &cfg, missing.Mend)
			if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
				t.Fatalf("%s: %v", missing.Mend, err)
			}
			b, err := Open(t.Context(), js, Config{Bucket: "b", Records: 10})
			if err != nil {
				t.Fatalf("after %s: %v", missing.Mend, err)
			}
			write(t, b, Write{Key: "k", Data: []byte("d")})
		})
	}
}

func TestBucketThatCannotBeMendedSaysSo(t *testing.T) {
	for name, c := range map[string]struct {
		spoil   func(context.Context, jetstream.JetStream) error
		setting string
	}{
		"sealed": {func(ctx context.Context, js jetstream.JetStream) error {
			cfg := right()
			_, err := js.CreateStream(ctx, cfg)
			cfg.Sealed = true
			return errors.Join(err, then(js.UpdateStream(ctx, cfg)))
		}, "sealed false"},
		"mirror": {func(ctx context.Context, js jetstream.JetStream) error {
			return errors.Join(then(js.CreateStream(ctx, jetstream.StreamConfig{Name: "other"})),
				then(js.CreateStream(ctx, jetstream.StreamConfig{Name: "KV_b", Mirror: &jetstream.StreamSource{Name: "other"}})))
		}, "no mirror"},
		"work queue": {func(ctx context.Context, js jetstream.JetStream) error {
			cfg := right()
			cfg.Retention = jetstream.WorkQueuePolicy
			return then(js.CreateStream(ctx, cfg))
		}, "retention limits"},
		"counters": {func(ctx context.Context, js jetstream.JetStream) error {
			return then(js.CreateStream(ctx, jetstream.StreamConfig{Name: "KV_b", Subjects: []string{"$KV.b.>"}, AllowMsgCounter: true}))
		}, "allow_msg_counter false"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, js := startNode(t)
			if err := c.spoil(t.Context(), js); err != nil {
				t.Fatal(err)
			}
			_, err := Open(t.Context(), js, Config{Bucket: "b"})
			var missing *MissingSettingError
			if !errors.As(err, &missing) || !missing.Anew || !strings.Contains(missing.Setting, c.setting) || missing.Mend != "nats stream rm KV_b" {
				t.Fatalf("got %v", err)
			}
			if err := js.DeleteStream(t.Context(), "KV_b"); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(t.Context(), js, Config{Bucket: "b"}); err != nil {
				t.Errorf("after %s: %v", missing.Mend, err)
			}
		})
	}
}

func then[T any](_ T, err error) error { return err }

func TestWhatDoesNotMatterIsLeftAlone(t *testing.T) {
	for name, change := range map[string]func(*jetstream.StreamConfig){
		"nothing":      func(*jetstream.StreamConfig) {},
		"storage":      func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"compression":  func(c *jetstream.StreamConfig) { c.Compression = jetstream.S2Compression },
		"discard old":  func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld },
		"limits":       func(c *jetstream.StreamConfig) { c.MaxMsgs, c.MaxBytes, c.MaxMsgSize = 1000, 10<<20, 4096 },
		"marker's TTL": func(c *jetstream.StreamConfig) { c.SubjectDeleteMarkerTTL = 24 * time.Hour },
		"deletion":     func(c *jetstream.StreamConfig) { c.DenyDelete = false },
		"purge":        func(c *jetstream.StreamConfig) { c.Description, c.Metadata = "mine", map[string]string{"a": "b"} },
		"window":       func(c *jetstream.StreamConfig) { c.Duplicates = time.Second },
		"more":         func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "else.>") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, js := startNode(t)
			cfg := right()
			change(&cfg)
			if _, err := js.CreateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(t.Context(), js, Config{Bucket: "b", Records: 10}); err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestEveryKindIsCheckedForWhatItNeeds(t *testing.T) {
	_, js := startNode(t)
	for i, kind := range []Kind{Registrations, Cluster, Checkpoints} {
		name := fmt.Sprintf("b%d", i)
		if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: name, TTL: time.Hour, MaxBytes: 100, MaxValueSize: 100}); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), js, Config{Kind: kind, Bucket: name})
		var missing *MissingSettingError
		if !errors.As(err, &missing) {
			t.Fatalf("%d: got %v", i, err)
		}
		for setting, want := range map[string]bool{
			"max_age": true, "max_bytes": true, "max_msg_size": true, "republish to " + kind.republishTo: kind.republishTo != "", "allow_msg_ttl": kind.markers,
		} {
			if strings.Contains(missing.Setting, setting) != want {
				t.Errorf("%d: %s is named: %t in %s", i, setting, !want, missing.Setting)
			}
		}
	}
}
