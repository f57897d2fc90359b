package deadletter_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/nats-io/nats.go/jetstream"
)

func TestParkedStreamIsCheckedForAllThatLosesOrHidesEvents(t *testing.T) {
	type config = jetstream.StreamConfig
	for name, c := range map[string]struct {
		spoil func(*config)
		says  []string // empty: it is good
	}{
		"good":           {func(*config) {}, nil},
		"kept for a day": {func(c *config) { c.MaxAge = 24 * time.Hour }, nil},
		"full is full":   {func(c *config) { c.MaxMsgs, c.Discard = 10, jetstream.DiscardNew }, nil},
		"drops":          {func(c *config) { c.MaxMsgs = 10 }, []string{"discard old", "nats stream edit EXESDB_PARKED --discard=new"}},
		"drops of one": {func(c *config) { c.MaxMsgsPerSubject = 10 }, []string{
			"discard old", "no discard_new_per_subject", "nats stream edit EXESDB_PARKED --discard=new --discard-per-subject",
		}},
		"interest":   {func(c *config) { c.Retention = jetstream.InterestPolicy }, []string{"--retention=limits"}},
		"work queue": {func(c *config) { c.Retention = jetstream.WorkQueuePolicy }, []string{"workqueue", "nats stream rm EXESDB_PARKED"}},
		"deletions":  {func(c *config) { c.DenyDelete = true }, []string{"deny_delete", "nats stream rm EXESDB_PARKED"}},
		"several": {func(c *config) { c.NoAck, c.AllowDirect, c.Subjects = true, false, []string{"exesdb.parked.s.>"} }, []string{
			"no_ack", "allow_direct", "it listens on exesdb.parked.s.>", "nats stream edit EXESDB_PARKED --subjects='exesdb.parked.>' --allow-direct --ack",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			js := start(t, nil).js
			if there, err := deadletter.Inspect(t.Context(), js); there || err != nil {
				t.Fatalf("before: %t, %v", there, err)
			}
			cfg := config{Name: deadletter.Stream, Subjects: []string{deadletter.Prefix + ">"}, AllowDirect: true}
			c.spoil(&cfg)
			if _, err := js.CreateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			there, err := deadletter.Inspect(t.Context(), js)
			if !there || (err != nil) != (len(c.says) > 0) || err != nil && !errors.Is(err, deadletter.ErrWrongStream) {
				t.Fatalf("there %t, %v", there, err)
			}
			for _, text := range c.says {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q is not in %v", text, err)
				}
			}
		})
	}
}
