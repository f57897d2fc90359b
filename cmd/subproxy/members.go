package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/membership"
	"github.com/exesdb/subproxy/pkg/registration"
)

// clusterBucket has the sessions.
const clusterBucket = "exesdb_cluster"

// memberRow is an instance that has a session, or that is named in a registration.
type memberRow struct {
	membership.Member
	Alive     bool       `json:"alive"`
	RenewedAt *time.Time `json:"renewed_at"` // null where there is no session
	Held      int        `json:"held"`       // registrations of this run
}

func newMembers() *cobra.Command {
	var nf natsFlags
	var asJSON bool
	var bucket string
	cmd := &cobra.Command{
		Use: "members", Short: "List the instances: who lives, who drains, and how many subscriptions each holds",
		Long: `List the instances that have a session, and those that have none and still hold subscriptions, which others are
about to take over.`,
		Example: "  subproxy members\n  subproxy members --json",
		Args:    command.Args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			nc, js, err := nf.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer nc.Close()
			rows, err := gatherMembers(cmd.Context(), js, bucket)
			if err != nil {
				return err
			}
			if asJSON {
				return command.WriteJSON(cmd.OutOrStdout(), rows)
			}
			t := newTable(cmd, "NAME", "ID", "HOST", "PID", "VERSION", "WEIGHT", "DRAINING", "SINCE", "ALIVE", "HELD")
			for _, r := range rows {
				draining, weight := "-", "-"
				if r.RenewedAt != nil {
					draining, weight = yesNo(r.Draining), fmt.Sprint(r.Weight)
				}
				t.AppendRow(table.Row{r.Name, r.ID, r.Host, r.PID, cmp.Or(r.Version, "-"), weight, draining, ago(r.Since), yesNo(r.Alive), r.Held})
			}
			t.Render()
			return nil
		},
	}
	nf.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&bucket, "bucket", kv.DefaultBucket, "registry bucket")
	return cmd
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func readMembers(ctx context.Context, js jetstream.JetStream) ([]membership.StoredMember, error) {
	r, err := kv.OpenExisting(ctx, js, clusterBucket)
	if err != nil {
		return nil, connect.Explain(err)
	}
	members, err := membership.ReadMembers(ctx, r)
	return members, connect.Explain(err)
}

// gatherMembers joins the sessions and what their owners hold.
func gatherMembers(ctx context.Context, js jetstream.JetStream, bucket string) ([]memberRow, error) {
	members, err := readMembers(ctx, js)
	if err != nil {
		return nil, err
	}
	entries, err := records(ctx, js, bucket, "", "")
	if err != nil {
		return nil, err
	}
	return joinMembers(members, entries, time.Now()), nil
}

func joinMembers(members []membership.StoredMember, entries []kv.Entry, now time.Time) []memberRow {
	rows := make([]memberRow, 0, len(members))
	byID := map[string]int{}
	for i := range members {
		m := &members[i]
		byID[m.ID] = len(rows)
		rows = append(rows, memberRow{Member: m.Member, Alive: !m.Overdue(now), RenewedAt: &m.RenewedAt})
	}
	for i := range entries {
		r, err := registration.Decode(entries[i].Key, entries[i].Data)
		if err != nil {
			continue // subproxy list shows it
		}
		n, ok := byID[r.Owner.ID]
		if !ok {
			n = len(rows)
			byID[r.Owner.ID] = n
			o := r.Owner
			rows = append(rows, memberRow{Member: membership.Member{Name: o.Name, ID: o.ID, Host: o.Host, PID: o.PID}})
		}
		rows[n].Held++
	}
	slices.SortStableFunc(rows, func(a, b memberRow) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return rows
}

func newDrain() *cobra.Command {
	var nf natsFlags
	var undo, asJSON bool
	cmd := &cobra.Command{
		Use: "drain NAME", Short: "Let an instance hand over all it holds, for maintenance",
		Long: `Tell the instance of that name to hold nothing. It answers when the others can see it; they take over its
subscriptions one by one, each when it has acknowledged what it had in hand (watch with subproxy members). It goes on
until --undo, or until the instance is started anew. While all instances drain they hold what they held.`,
		Example: "  subproxy drain host-a\n  subproxy drain host-a --undo",
		Args:    command.Args(1, 1, "the NAME of an instance"),
		RunE: func(cmd *cobra.Command, args []string) error {
			answer, err := drain(cmd.Context(), &nf, args[0], undo)
			if err != nil {
				return err
			}
			if asJSON {
				return command.WriteJSON(cmd.OutOrStdout(), answer)
			}
			what := "drains"
			if !answer.Draining {
				what = "takes its share again"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", answer.Instance.Name, what)
			return nil
		},
	}
	nf.add(cmd)
	cmd.Flags().BoolVar(&undo, "undo", false, "let it take its share again")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the instance's answer as JSON")
	return cmd
}

func drain(ctx context.Context, nf *natsFlags, name string, undo bool) (control.DrainAnswer, error) {
	nc, js, err := nf.connect(ctx)
	if err != nil {
		return control.DrainAnswer{}, err
	}
	defer nc.Close()
	members, err := readMembers(ctx, js)
	if err != nil {
		return control.DrainAnswer{}, err
	}
	// Who is not there does not answer, and needs not be waited for.
	var others []string
	for i := range members {
		others = append(others, members[i].Name)
	}
	if !slices.Contains(others, name) {
		return control.DrainAnswer{}, fmt.Errorf("drain %s: %w; there are: %s", name, control.ErrNoInstance, cmp.Or(strings.Join(others, ", "), "none"))
	}
	answer, err := control.NewClient(nc).Drain(ctx, name, undo)
	return answer, connect.Explain(err)
}
