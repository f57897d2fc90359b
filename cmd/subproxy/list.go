package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// unreachable is shown in place of a health where a subscription is registered and no running instance
// answers for it.
const unreachable = "unreachable"

// row is a subscription as the registry and the instances together show it.
type row struct {
	subscription.Subscription
	Health       string                     `json:"health"`
	Registration *registration.Registration `json:"registration"` // null where the bucket has none
	Revision     uint64                     `json:"revision"`
	Unreadable   string                     `json:"unreadable,omitempty"` // why the record could not be read
	Status       *status.Status             `json:"status"`               // null where no instance answers
	MovingTo     string                     `json:"moving_to,omitempty"`  // the instance that is about to take it
}

// owner is who holds the subscription, and who is about to.
func (r *row) owner() string {
	name := "-"
	switch {
	case r.Status != nil && r.Status.Owner.Name != "":
		name = r.Status.Owner.Name
	case r.Registration != nil:
		name = r.Registration.Owner.Name
	}
	if r.MovingTo != "" && r.MovingTo != name {
		name += " → " + r.MovingTo
	}
	return name
}

func newList() *cobra.Command {
	var nf natsFlags
	var asJSON bool
	var bucket string
	cmd := &cobra.Command{
		Use: "list [STORE]", Short: "List subscriptions: who holds each, where its events go, how it is",
		Long: `List what the registry bucket holds, together with what the running instances say of it.

A subscription that is registered but that no running instance answers for is shown as unreachable: its instance is
gone or cut off, and its events go nowhere.`,
		Example: "  subproxy list\n  subproxy list greenhouse_tycoon --json",
		Args:    command.Args(0, 1, "at most a STORE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, _ := storeAndName(args)
			rows, err := gatherRows(cmd.Context(), &nf, bucket, store, "")
			if err != nil {
				return err
			}
			if asJSON {
				return errors.Join(command.WriteJSON(cmd.OutOrStdout(), rows), none(rows, store, ""))
			}
			t := newTable(cmd, "STORE", "NAME", "TYPE", "SELECTOR", "HEALTH", "OWNER", "INCARNATION", "REVISION", "CAUSE", "REGISTERED")
			for _, r := range rows {
				cause, incarnation, since := "-", uint64(0), "-"
				if r.Registration != nil {
					cause, incarnation = string(r.Registration.Cause), r.Registration.Incarnation
					since = ago(r.Registration.RegisteredAt)
				}
				t.AppendRow(table.Row{r.Store, r.Name, r.Type, r.Selector, paint(r.Health), r.owner(), incarnation, r.Revision, cause, since})
			}
			t.Render()
			return none(rows, store, "")
		},
	}
	nf.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&bucket, "bucket", kv.DefaultBucket, "registry bucket")
	return cmd
}

// none is the error where nothing is of the name that was asked for.
func none(rows []row, store, name string) error {
	switch {
	case len(rows) > 0 || store == "":
		return nil
	case name == "":
		return fmt.Errorf("%w: no subscription of store %s is registered, or configured in a running instance", control.ErrProxyNotFound, store)
	default:
		return fmt.Errorf("%w: no subscription %s of store %s is registered, or configured in a running instance", control.ErrProxyNotFound, name, store)
	}
}

// gatherRows joins the registry's records and the running instances' statuses.
func gatherRows(ctx context.Context, nf *natsFlags, bucket, store, name string) ([]row, error) {
	nc, js, err := nf.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	entries, err := records(ctx, js, bucket, store, name)
	if err != nil {
		return nil, err
	}
	_, statuses, err := control.NewClient(nc).Statuses(ctx, control.Request{Store: store, Name: name, Held: true})
	if errors.Is(err, control.ErrProxyNotFound) {
		err = nil // the registry may know it, and whoever asks says what it means that nobody does
	}
	if err != nil {
		return nil, err
	}
	return joinRows(entries, statuses), nil
}

func joinRows(entries []kv.Entry, statuses []status.Status) []row {
	rows := make([]row, 0, len(entries))
	byKey := map[string]int{}
	for i := range entries {
		e := &entries[i]
		r := row{Revision: e.Revision, Health: unreachable}
		if record, err := registration.Decode(e.Key, e.Data); err == nil {
			r.Subscription, r.Registration = record.Subscription, &record
		} else if s, err2 := subscription.ParseKey(e.Key); err2 == nil {
			r.Subscription, r.Unreadable = s, err.Error()
		} else {
			r.Name, r.Unreadable = e.Key, err.Error()
		}
		byKey[e.Key] = len(rows)
		rows = append(rows, r)
	}
	for i := range statuses {
		st := &statuses[i]
		s := subscription.Subscription{Store: st.Store, Type: st.SubscriptionType, Selector: st.Selector, Name: st.Name}
		n, ok := byKey[s.Key()]
		if !ok {
			n = len(rows)
			byKey[s.Key()] = n
			rows = append(rows, row{Subscription: s})
		}
		r := &rows[n]
		if st.Moving != "" && st.Moving != status.Releasing {
			r.MovingTo = st.ReportedBy.Name
		}
		// Of several instances the one that holds the subscription speaks for it.
		if r.Status == nil || r.Status.Health == breaker.Standby {
			r.Status, r.Health = st, string(st.Health)
		}
	}
	for i := range rows {
		// An instance that stands by for an owner that does not answer can't vouch for it.
		if r := &rows[i]; r.Health == string(breaker.Standby) {
			r.Health = unreachable
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Or(cmp.Compare(a.Store, b.Store), cmp.Compare(a.Name, b.Name)) })
	return rows
}

func newTable(cmd *cobra.Command, header ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(cmd.OutOrStdout())
	t.SetStyle(table.StyleLight)
	t.Style().Options.DrawBorder, t.Style().Options.SeparateColumns = false, false
	t.AppendHeader(header)
	return t
}

// paint colours a health, where the output is a terminal (main).
func paint(h string) string {
	switch h {
	case string(breaker.Healthy):
		return text.FgGreen.Sprint(h)
	case string(breaker.Degraded), string(breaker.Standby), string(breaker.Unknown):
		return text.FgYellow.Sprint(h)
	default:
		return text.FgRed.Sprint(h)
	}
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := time.Since(t)
	switch {
	case d < 0:
		return "now"
	case d < time.Minute:
		return d.Round(100*time.Millisecond).String() + " ago"
	default:
		return d.Round(time.Second).String() + " ago"
	}
}
