package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/sink"
)

// parkedRow is a parked event as it is printed. Data stands there as CloudEvents has it in JSON: as it is,
// or in base64 where it is neither JSON nor text.
type parkedRow struct {
	Sequence      uint64          `json:"seq"`
	Store         string          `json:"store"`
	Name          string          `json:"name"`
	StoreSequence uint64          `json:"store_seq"`
	Incarnation   uint64          `json:"incarnation"`
	ID            string          `json:"id"`
	Type          string          `json:"type"`
	Stream        string          `json:"stream"`
	Sink          sink.Kind       `json:"sink"`
	Subject       string          `json:"subject"`
	Attempts      int             `json:"attempts"`
	ParkedAt      time.Time       `json:"parked_at"`
	Reason        string          `json:"reason"`
	Truncated     bool            `json:"truncated"`
	Bytes         int             `json:"bytes"`
	Header        nats.Header     `json:"header,omitempty"`
	Data          json.RawMessage `json:"data,omitempty"`
	DataBase64    []byte          `json:"data_base64,omitempty"`
}

func newParkedRow(p *deadletter.Parked) parkedRow {
	return parkedRow{
		Sequence: p.Sequence, Store: p.Store, Name: p.Subscription, StoreSequence: p.StoreSequence, Incarnation: p.Incarnation,
		ID: p.EventID(), Type: p.Type(), Stream: p.StreamID(), Sink: sink.Kind(p.Sink), Subject: p.Subject,
		Attempts: p.Attempts, ParkedAt: p.At, Reason: p.Reason, Truncated: p.Truncated, Bytes: len(p.Data),
	}
}

func newParked() *cobra.Command {
	cmd := &cobra.Command{
		Use: "parked", Short: "Look at parked events, deliver them again or drop them",
		Long: `An event that its subscriber refused too often is parked in the stream ` + deadletter.Stream + `, and the next one goes on.
These commands list what is parked, show one event, deliver events again to where they were to go, and drop them.`,
		Args: func(cmd *cobra.Command, given []string) error {
			if len(given) > 0 {
				return command.Usagef("%s has no command %q; see %s --help", cmd.CommandPath(), given[0], cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newParkedList(), newParkedShow(), newParkedReplay(), newParkedDrop())
	return cmd
}

// withParked connects and opens the stream of parked events, for as long as do runs.
func withParked(ctx context.Context, nf *natsFlags, do func(js jetstream.JetStream, parked *deadletter.Store) error) error {
	nc, js, err := nf.connect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	parked, err := deadletter.OpenExisting(ctx, js)
	if err != nil {
		return connect.Explain(err)
	}
	return connect.Explain(do(js, parked))
}

func newParkedList() *cobra.Command {
	var nf natsFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list [STORE [NAME]]", Short: "List parked events, oldest first",
		Long:    "List the parked events of one subscription, of a store's, or of all. SEQ is what the other commands take; STORE SEQ is the event's\nsequence in its store.",
		Example: "  subproxy parked list\n  subproxy parked list greenhouse_tycoon --json",
		Args:    command.Args(0, 2, "STORE and NAME, both optional"),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, name := storeAndName(args)
			return withParked(cmd.Context(), &nf, func(_ jetstream.JetStream, parked *deadletter.Store) error {
				return listParked(cmd, parked.List(cmd.Context(), store, name), asJSON)
			})
		},
	}
	nf.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, without headers and data")
	return cmd
}

func listParked(cmd *cobra.Command, events iter.Seq2[deadletter.Parked, error], asJSON bool) error {
	rows := []parkedRow{}
	for p, err := range events {
		if err != nil {
			return err
		}
		rows = append(rows, newParkedRow(&p))
	}
	if asJSON {
		return command.WriteJSON(cmd.OutOrStdout(), rows)
	}
	t := newTable(cmd, "SEQ", "STORE", "NAME", "STORE SEQ", "TYPE", "STREAM", "ATTEMPTS", "AGE", "REASON")
	for _, r := range rows {
		t.AppendRow(table.Row{r.Sequence, r.Store, r.Name, r.StoreSequence, r.Type, r.Stream, r.Attempts, ago(r.ParkedAt), r.Reason})
	}
	t.Render()
	return nil
}

func newParkedShow() *cobra.Command {
	var nf natsFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show SEQ", Short: "Show a parked event: why it is there, its headers and its data",
		Example: "  subproxy parked show 12\n  subproxy parked show 12 --json",
		Args:    command.Args(1, 1, "a SEQ"),
		RunE: func(cmd *cobra.Command, args []string) error {
			sequences, err := parseSequences(args)
			if err != nil {
				return err
			}
			return withParked(cmd.Context(), &nf, func(_ jetstream.JetStream, parked *deadletter.Store) error {
				p, err := parked.Get(cmd.Context(), sequences[0])
				if err != nil {
					return err
				}
				if asJSON {
					return command.WriteJSON(cmd.OutOrStdout(), wholeParkedRow(&p))
				}
				showParked(cmd.OutOrStdout(), &p)
				return nil
			})
		},
	}
	nf.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func wholeParkedRow(p *deadletter.Parked) parkedRow {
	r := newParkedRow(p)
	r.Header = p.Header
	switch {
	case json.Valid(p.Data):
		r.Data = p.Data
	case utf8.Valid(p.Data) && len(p.Data) > 0:
		r.Data, _ = json.Marshal(string(p.Data)) // a string can be marshalled
	default:
		r.DataBase64 = p.Data
	}
	return r
}

func showParked(w io.Writer, p *deadletter.Parked) {
	fmt.Fprintf(w, "%d: event %d of %s for %s, refused %d times, parked %s\n", p.Sequence, p.StoreSequence, p.Store, p.Subscription, p.Attempts, ago(p.At))
	fmt.Fprintf(w, "to:     %s %s\nreason: %s\n", p.Sink, p.Subject, p.Reason)
	if p.Truncated {
		fmt.Fprintln(w, "It was too large to be parked whole: headers or data are missing, and it can't be replayed from here.")
	}
	fmt.Fprintln(w)
	for _, k := range slices.Sorted(maps.Keys(p.Header)) {
		for _, v := range p.Header[k] {
			fmt.Fprintf(w, "%s: %s\n", k, v)
		}
	}
	switch {
	case len(p.Data) == 0:
	case utf8.Valid(p.Data):
		fmt.Fprintf(w, "\n%s\n", p.Data)
	default:
		fmt.Fprintf(w, "\n%d bytes that are no text; --json has them in base64\n", len(p.Data))
	}
}

// parkedChoice is which events replay and drop act on: those named, or with --all those of STORE and NAME.
type parkedChoice struct {
	nats natsFlags
	all  bool
}

func (c *parkedChoice) add(cmd *cobra.Command) {
	c.nats.add(cmd)
	cmd.Flags().BoolVar(&c.all, "all", false, "all parked events, or those of STORE or of STORE and NAME")
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		if c.all {
			return command.Args(0, 2, "with --all STORE and NAME, both optional")(cmd, given)
		}
		if len(given) == 0 {
			return command.Usagef("%s takes one SEQ or more, or --all; see %s --help", cmd.CommandPath(), cmd.CommandPath())
		}
		_, err := parseSequences(given)
		return err
	}
}

func parseSequences(args []string) ([]uint64, error) {
	sequences := make([]uint64, len(args))
	for i, a := range args {
		n, err := strconv.ParseUint(a, 10, 64)
		if err != nil || n == 0 {
			return nil, command.Usagef("%q is not a SEQ of subproxy parked list", a)
		}
		sequences[i] = n
	}
	return sequences, nil
}

// act does something to each chosen event, and goes on after a failure: what is said of each is printed.
func (c *parkedChoice) act(cmd *cobra.Command, args []string, done string, do func(js jetstream.JetStream, parked *deadletter.Store, p *deadletter.Parked) error) error {
	ctx, total, failed := cmd.Context(), 0, 0
	err := withParked(ctx, &c.nats, func(js jetstream.JetStream, parked *deadletter.Store) error {
		for p, err := range c.chosen(ctx, parked, args) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil && p.Sequence == 0 {
				return err
			}
			total++
			said := done
			if err == nil {
				err = do(js, parked, &p)
			}
			if err != nil {
				failed++
				said = connect.Explain(err).Error()
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d\t%s/%s\t%d\t%s\n", p.Sequence, p.Store, p.Subscription, p.StoreSequence, said)
		}
		return nil
	})
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d of %d not %s", failed, total, done)
	}
	return err
}

// chosen yields the named events one by one, or lists. An error about one event comes with its sequence.
func (c *parkedChoice) chosen(ctx context.Context, parked *deadletter.Store, args []string) iter.Seq2[deadletter.Parked, error] {
	if c.all {
		store, name := storeAndName(args)
		return parked.List(ctx, store, name)
	}
	return func(yield func(deadletter.Parked, error) bool) {
		sequences, _ := parseSequences(args) // checked with the command line
		for _, n := range sequences {
			p, err := parked.Get(ctx, n)
			if p.Sequence = n; !yield(p, err) {
				return
			}
		}
	}
}

// errNotTried is for events that were to go where nobody took the one before.
var errNotTried = errors.New("not tried: nobody took an event there")

func newParkedReplay() *cobra.Command {
	var c parkedChoice
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "replay SEQ... | replay --all [STORE [NAME]]", Short: "Deliver parked events again to where they were to go",
		Long: `Deliver parked events again, as their proxy would: published, requested or stored on the subject that each was to go to.
One that is accepted is removed from the parked ones; one that is refused stays, and the reason is printed. Events of
subscriptions that a Go handler serves can only be replayed by the program that has the handler.

The subscriber sees these events after those that came later. The exit status is 1 unless all of them were accepted.`,
		Example: "  subproxy parked replay 12 13\n  subproxy parked replay --all greenhouse_tycoon",
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout <= 0 {
				return command.Usagef("--timeout: more than 0, not %v", timeout)
			}
			away := map[sink.Config]bool{}
			return c.act(cmd, args, "accepted", func(js jetstream.JetStream, parked *deadletter.Store, p *deadletter.Parked) error {
				cfg := sink.ParkedConfig(p)
				cfg.Timeout = timeout
				if away[cfg] {
					return fmt.Errorf("%w on %s", errNotTried, cfg.Subject)
				}
				s, err := sink.New(js, cfg)
				if err != nil {
					return err
				}
				err = sink.Replay(cmd.Context(), parked, *p, s)
				away[cfg] = errors.Is(err, sink.ErrNoSubscriber) || errors.Is(err, sink.ErrNoReply) || errors.Is(err, sink.ErrNoStream)
				return err
			})
		},
	}
	c.add(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", sink.DefaultTimeout, "how long a reply or an acknowledgement is waited for")
	return cmd
}

func newParkedDrop() *cobra.Command {
	var c parkedChoice
	cmd := &cobra.Command{
		Use: "drop SEQ... | drop --all [STORE [NAME]]", Short: "Drop parked events for good",
		Long:    "Remove parked events without delivering them. They stay in their store.",
		Example: "  subproxy parked drop 12\n  subproxy parked drop --all greenhouse_tycoon",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.act(cmd, args, "dropped", func(_ jetstream.JetStream, parked *deadletter.Store, p *deadletter.Parked) error {
				return parked.Drop(cmd.Context(), p.Sequence)
			})
		},
	}
	c.add(cmd)
	return cmd
}
