package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
)

type resetTermFlags struct {
	nats   natsFlags
	bucket string
	term   uint64
	asJSON bool
}

func newResetTerm() *cobra.Command {
	var f resetTermFlags
	cmd := &cobra.Command{
		Use: "reset-term STORE", Short: "Begin a store's count of leader terms again, after one that was too high",
		Long: `Begin a store's count of leader terms again.

Instances ignore a leader change, and refuse an emitter, of a lower term than they have heard of. So one event with a wrong,
high term has every later leader ignored. This command has every instance that has the store forget it, and restart the
proxies that it holds, with new registrations. Events are not lost; a subscriber may see again what it had in hand.

Where subproxy's own emitter leads the store, its term is the one in its lease, and is taken up again: it does no harm there.`,
		Example: "  subproxy reset-term greenhouse_tycoon --term 43",
		Args:    command.Args(1, 1, "a STORE"),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) }
	f.nats.add(cmd)
	flags := cmd.Flags()
	flags.Uint64Var(&f.term, "term", 0, fmt.Sprintf("the `TERM` of the leader that there is, at most %d; 0: not known", uint64(cluster.MaxAnnouncedTerm)))
	flags.BoolVar(&f.asJSON, "json", false, "print the instances' answers as JSON")
	flags.StringVar(&f.bucket, "bucket", kv.DefaultBucket, "registry bucket")
	return cmd
}

// resets is how often instances are asked: a registration that was under way in one of them may bring the
// old term back.
const resets = 3

func (f *resetTermFlags) run(cmd *cobra.Command, store string) error {
	if f.term > cluster.MaxAnnouncedTerm {
		return command.Usagef("--term: at most %d, not %d", uint64(cluster.MaxAnnouncedTerm), f.term)
	}
	ctx := cmd.Context()
	nc, js, err := f.nats.connect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	var answers []control.ResetTermAnswer
	var highest uint64
	for range resets {
		if answers, err = control.NewClient(nc).ResetTerm(ctx, store, f.term); err != nil {
			return fmt.Errorf("reset the term of store %s: %w", store, err)
		}
		if highest, err = f.highest(ctx, js, store); err != nil {
			return err
		}
		if highest <= f.term {
			break
		}
		if backoff.Sleep(ctx, time.Second) != nil {
			return ctx.Err()
		}
	}
	if f.asJSON {
		return command.WriteJSON(cmd.OutOrStdout(), answers)
	}
	for _, a := range answers {
		fmt.Fprintf(cmd.OutOrStdout(), "%s: term %d, was %d; %d of %d registered anew and verified\n", a.Instance.Name, a.Term, a.Before, a.Verified, a.Affected)
	}
	if highest > f.term {
		fmt.Fprintf(cmd.OutOrStdout(), "Registrations say term %d: a leader of that term sends events, or leads by its lease.\n", highest)
	}
	return nil
}

// highest is the highest term in the store's registrations.
func (f *resetTermFlags) highest(ctx context.Context, js jetstream.JetStream, store string) (highest uint64, err error) {
	entries, err := records(ctx, js, f.bucket, store, "")
	if err != nil {
		return 0, err
	}
	for i := range entries {
		if record, err := registration.Decode(entries[i].Key, entries[i].Data); err == nil {
			highest = max(highest, record.Term)
		}
	}
	return highest, nil
}
