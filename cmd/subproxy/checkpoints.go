package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// checkpointRow is a checkpoint as it is printed. What can't be read of it is empty.
type checkpointRow struct {
	Key        string            `json:"key"`
	Store      string            `json:"store"`
	Name       string            `json:"name"`
	Type       subscription.Type `json:"type"`
	Selector   string            `json:"selector"`
	Sequence   uint64            `json:"seq"`
	Epoch      string            `json:"epoch"`
	UpdatedAt  time.Time         `json:"updated_at"`
	Registered bool              `json:"registered"` // a subscription is registered under the key
	Revision   uint64            `json:"revision"`
}

func newCheckpoints() *cobra.Command {
	cmd := &cobra.Command{
		Use: "checkpoints", Short: "Look at how far subscriptions are, and drop what no subscription has any more",
		Long: `A checkpoint says how far a subscription is, under its registration's key. It stays when the subscription is removed, or is given another type or
selector, and then is another one. These commands list checkpoints, and drop those of subscriptions that are not registered.`,
		Args: func(cmd *cobra.Command, given []string) error {
			if len(given) > 0 {
				return command.Usagef("%s has no command %q; see %s --help", cmd.CommandPath(), given[0], cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCheckpointsList(), newCheckpointsDrop())
	return cmd
}

// withCheckpoints connects and reads the checkpoints of a store, or of one name in it, for as long as do
// runs.
func withCheckpoints(ctx context.Context, nf *natsFlags, bucket, store, name string, do func(js jetstream.JetStream, rows []checkpointRow) error) error {
	nc, js, err := nf.connect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	points, err := records(ctx, js, kv.Checkpoints.DefaultBucket(), store, name)
	if err != nil {
		return err
	}
	registered, err := records(ctx, js, bucket, store, name)
	if err != nil {
		return err
	}
	keys := map[string]bool{}
	for i := range registered {
		keys[registered[i].Key] = true
	}
	rows := make([]checkpointRow, 0, len(points))
	for i := range points {
		e := &points[i]
		r := checkpointRow{Key: e.Key, Revision: e.Revision, Registered: keys[e.Key]}
		if s, err := subscription.ParseKey(e.Key); err == nil {
			r.Store, r.Name, r.Type, r.Selector = s.Store, s.Name, s.Type, s.Selector
		}
		var point emitter.Checkpoint
		if json.Unmarshal(e.Data, &point) == nil {
			r.Sequence, r.Epoch, r.UpdatedAt = point.Sequence, point.Epoch, point.UpdatedAt
		}
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b checkpointRow) int {
		return cmp.Or(cmp.Compare(a.Store, b.Store), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Key, b.Key))
	})
	return connect.Explain(do(js, rows))
}

func newCheckpointsList() *cobra.Command {
	var nf natsFlags
	var asJSON, orphans bool
	var bucket string
	cmd := &cobra.Command{
		Use: "list [STORE [NAME]]", Short: "List checkpoints, and whether a subscription is registered for each",
		Example: "  subproxy checkpoints list\n  subproxy checkpoints list greenhouse_tycoon --orphans --json",
		Args:    command.Args(0, 2, "STORE and NAME, both optional"),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, name := storeAndName(args)
			return withCheckpoints(cmd.Context(), &nf, bucket, store, name, func(_ jetstream.JetStream, rows []checkpointRow) error {
				if orphans {
					rows = slices.DeleteFunc(rows, func(r checkpointRow) bool { return r.Registered })
				}
				if asJSON {
					return command.WriteJSON(cmd.OutOrStdout(), rows)
				}
				t := newTable(cmd, "STORE", "NAME", "TYPE", "SELECTOR", "SEQUENCE", "WRITTEN", "REGISTERED", "KEY")
				for _, r := range rows {
					t.AppendRow(table.Row{r.Store, r.Name, r.Type, r.Selector, r.Sequence, ago(r.UpdatedAt), r.Registered, r.Key})
				}
				t.Render()
				return nil
			})
		},
	}
	nf.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&orphans, "orphans", false, "only those that no registered subscription has")
	cmd.Flags().StringVar(&bucket, "bucket", kv.DefaultBucket, "registry bucket")
	return cmd
}

// errDropped is the error where not all checkpoints could be dropped; each is told of before.
var errDropped = errors.New("not all checkpoints could be dropped")

func newCheckpointsDrop() *cobra.Command {
	var nf natsFlags
	var orphans bool
	var bucket string
	cmd := &cobra.Command{
		Use: "drop KEY… | --orphans STORE [NAME]", Short: "Drop checkpoints of subscriptions that are not registered",
		Long: `Drop checkpoints by their keys, or with --orphans all of a store, or of one name in it, that no registered subscription has. A subscription that
is registered under such a key again begins where its start_version says. While one is registered under a key its checkpoint is not dropped.

Subscriptions whose instances are all stopped are not registered either: list before you drop.`,
		Example: "  subproxy checkpoints drop greenhouse_tycoon.by_event_type.renamed=3Av1.audit\n  subproxy checkpoints drop --orphans greenhouse_tycoon audit",
		Args: func(cmd *cobra.Command, given []string) error {
			if orphans {
				return command.Args(1, 2, "with --orphans a STORE and perhaps a NAME")(cmd, given)
			}
			if len(given) == 0 {
				return command.Usagef("%s takes one KEY or more, or --orphans and a STORE; see %s --help", cmd.CommandPath(), cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			store, name := "", ""
			if orphans {
				store, name = storeAndName(args)
			}
			return withCheckpoints(cmd.Context(), &nf, bucket, store, name, func(js jetstream.JetStream, rows []checkpointRow) error {
				if orphans {
					args = nil
					for _, r := range rows {
						if !r.Registered {
							args = append(args, r.Key)
						}
					}
				}
				return dropCheckpoints(cmd, js, rows, args)
			})
		},
	}
	nf.add(cmd)
	cmd.Flags().BoolVar(&orphans, "orphans", false, "all of STORE, or of STORE and NAME, that no registered subscription has")
	cmd.Flags().StringVar(&bucket, "bucket", kv.DefaultBucket, "registry bucket")
	return cmd
}

func dropCheckpoints(cmd *cobra.Command, js jetstream.JetStream, rows []checkpointRow, keys []string) error {
	byKey := map[string]*checkpointRow{}
	for i := range rows {
		byKey[rows[i].Key] = &rows[i]
	}
	kv, err := js.KeyValue(cmd.Context(), kv.Checkpoints.DefaultBucket())
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = nil, nil
	}
	if err != nil {
		return err
	}
	failed := false
	for _, key := range keys {
		r := byKey[key]
		var err error
		switch {
		case r == nil || kv == nil:
			err = errors.New("there is no checkpoint under this key; see subproxy checkpoints list")
		case r.Registered:
			err = errors.New("a subscription is registered under this key; remove it from the configuration, or stop its instances, first")
		default:
			err = kv.Delete(cmd.Context(), key, jetstream.LastRevision(r.Revision))
		}
		if err != nil {
			failed = true
			fmt.Fprintf(cmd.OutOrStdout(), "%s\t%v\n", key, err)
			continue
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s\tdropped, at %d\n", key, r.Sequence)
	}
	if failed {
		return errDropped
	}
	return nil
}
