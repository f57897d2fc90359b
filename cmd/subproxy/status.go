package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/exesdb/subproxy/pkg/subscription"
)

func newStatus() *cobra.Command {
	var nf natsFlags
	var asJSON, watch bool
	var bucket string
	cmd := &cobra.Command{
		Use: "status [STORE [NAME]]", Short: "Show the health of subscriptions, once or as it changes",
		Long: `Show each subscription's health, who holds it and since when, and where it is moving (host-a → host-b): from the
running instances, and from the registry for those that no instance answers for (unreachable). With --watch it goes on, a
line for every change, until it is interrupted.

The exit status is 0 when everything shown is healthy or stands by, and 1 when something is not, so that scripts can ask.`,
		Example: "  subproxy status\n  subproxy status greenhouse_tycoon --watch\n  subproxy status --json",
		Args:    command.Args(0, 2, "STORE and NAME, both optional"),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, name := storeAndName(args)
			if watch {
				return watchStatus(cmd.Context(), cmd.OutOrStdout(), &nf, store, name, asJSON)
			}
			rows, err := gatherRows(cmd.Context(), &nf, bucket, store, name)
			if err != nil {
				return err
			}
			if err := showStatus(cmd, rows, asJSON); err != nil {
				return err
			}
			return errors.Join(none(rows, store, name), unhealthy(rows))
		},
	}
	nf.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON; with --watch one message a line")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on and print every change")
	cmd.Flags().StringVar(&bucket, "bucket", kv.DefaultBucket, "registry bucket")
	return cmd
}

func showStatus(cmd *cobra.Command, rows []row, asJSON bool) error {
	if asJSON {
		return command.WriteJSON(cmd.OutOrStdout(), rows)
	}
	t := newTable(cmd, "STORE", "NAME", "HEALTH", "BREAKER", "VERIFIED", "FAILURES", "CAUSE", "LATENCY", "REVISION", "INCARNATION", "OWNER", "SINCE", "LAST SUCCESS", "SEQ", "LAG", "SINK", "ERROR")
	for _, r := range rows {
		st := r.Status
		if st == nil {
			t.AppendRow(table.Row{r.Store, r.Name, paint(r.Health), "-", "-", "-", "-", "-", r.Revision, "-", r.owner(), "-", "-", "-", "-", "-", r.Unreadable})
			continue
		}
		last, since := "-", "-"
		if st.LastSuccess != nil {
			last = ago(*st.LastSuccess)
		}
		if st.HeldSince != nil {
			since = ago(*st.HeldSince)
		}
		t.AppendRow(table.Row{
			st.Store, st.Name, paint(r.Health), st.Breaker, verified(st), st.ConsecutiveFailures, st.LastCause,
			fmt.Sprintf("%.1f ms", st.LatencyMS), st.Revision, st.Incarnation, r.owner(), since, last, st.LastSeq, lagText(st), sinkText(st), st.LastError,
		})
	}
	t.Render()
	showPassedOver(cmd, rows)
	return nil
}

// showPassedOver prints a line for each store whose stream has messages that are no events.
func showPassedOver(cmd *cobra.Command, rows []row) {
	byStore := map[string]*event.PassedOver{}
	for _, r := range rows {
		if st := r.Status; st != nil && st.PassedOver != nil && (byStore[r.Store] == nil || st.PassedOver.At.After(byStore[r.Store].At)) {
			byStore[r.Store] = st.PassedOver
		}
	}
	for _, store := range slices.Sorted(maps.Keys(byStore)) {
		fmt.Fprintf(cmd.OutOrStdout(), "store %s: %v\n", store, byStore[store])
	}
}

// lagText is how far the subscription is behind; ? where nobody knows.
func lagText(st *status.Status) string {
	switch {
	case st.SinkState == "":
		return "-"
	case st.Lag == nil:
		return "?"
	case st.Stalled:
		return fmt.Sprintf("%d, stalled", *st.Lag)
	default:
		return fmt.Sprint(*st.Lag)
	}
}

// sinkText is the sink's kind and how it is.
func sinkText(st *status.Status) string {
	switch {
	case st.SinkState == "":
		return "-"
	case st.Sink == "":
		return string(st.SinkState)
	case st.Parked > 0:
		return fmt.Sprintf("%s %s, %d parked", st.Sink, st.SinkState, st.Parked)
	default:
		return st.Sink + " " + string(st.SinkState)
	}
}

func verified(st *status.Status) string {
	switch {
	case st.Verification == "off":
		return "off"
	case st.Verified:
		return "yes"
	default:
		return "no"
	}
}

// unhealthy makes the exit status tell what the table tells.
func unhealthy(rows []row) error {
	bad := 0
	for _, r := range rows {
		if r.Health != "healthy" && r.Health != "standby" {
			bad++
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d subscriptions are not healthy", bad, len(rows))
	}
	return nil
}

// watchStatus prints the statuses as they are and then each change, until ctx ends.
func watchStatus(ctx context.Context, w io.Writer, nf *natsFlags, store, name string, asJSON bool) error {
	nc, _, err := nf.connect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	messages := make(chan *nats.Msg, 1<<16)
	subject := status.StatusPrefix + subscription.TokenOrStar(store) + "." + subscription.TokenOrStar(name)
	if _, err := nc.ChanSubscribe(subject, messages); err != nil {
		return connect.Explain(fmt.Errorf("subscribe to %s: %w", subject, err))
	}
	_, statuses, err := control.NewClient(nc).Statuses(ctx, control.Request{Store: store, Name: name, Held: true})
	if err != nil && !errors.Is(err, control.ErrProxyNotFound) { // what nobody knows yet may come
		return err
	}
	p := newWatchPrinter(w, asJSON)
	for i := range statuses {
		p.print(&statuses[i])
	}
	for {
		select {
		case m := <-messages:
			var st status.Status
			if err := json.Unmarshal(m.Data, &st); err != nil {
				continue // not one of ours
			}
			p.print(&st)
		case <-ctx.Done():
			return nil
		}
	}
}

// watchPrinter prints a line for each status that says something new; heartbeats don't.
type watchPrinter struct {
	w      io.Writer
	asJSON bool
	last   map[string]string
}

func newWatchPrinter(w io.Writer, asJSON bool) *watchPrinter {
	return &watchPrinter{w: w, asJSON: asJSON, last: map[string]string{}}
}

func (p *watchPrinter) print(st *status.Status) {
	key := st.Store + "/" + st.Name + "@" + st.ReportedBy.ID
	news := fmt.Sprint(st.Health, st.Breaker, st.Verified, st.ConsecutiveFailures, st.Revision, st.Incarnation, st.LastError, st.SinkState == status.SinkRefusing, st.Parked, st.Stalled, st.Lag == nil, st.Lag != nil && *st.Lag > 0)
	if p.last[key] == news {
		return
	}
	p.last[key] = news
	if p.asJSON {
		// A status that was decoded can be encoded.
		data, _ := json.Marshal(st)
		fmt.Fprintf(p.w, "%s\n", data)
		return
	}
	line := fmt.Sprintf("%s  %s/%s  %s", st.Timestamp.Local().Format(time.TimeOnly+".000"), st.Store, st.Name, paint(string(st.Health)))
	switch {
	case st.LastError != "" && st.ConsecutiveFailures == 0 && st.SinkState == status.SinkRefusing:
		line += fmt.Sprintf("  sequence %d, lag %s, the sink takes no events: %s", st.LastSeq, lagText(st), st.LastError)
	case st.LastError != "" && st.ConsecutiveFailures == 0:
		line += fmt.Sprintf("  sequence %d, lag %s: %s", st.LastSeq, lagText(st), st.LastError)
	case st.LastError != "":
		line += fmt.Sprintf("  failures %d, breaker %s: %s", st.ConsecutiveFailures, st.Breaker, st.LastError)
	case st.Registered:
		line += fmt.Sprintf("  %s: verified %s in %.1f ms, revision %d, incarnation %d, by %s", st.LastCause, verified(st), st.LatencyMS, st.Revision, st.Incarnation, st.Owner.Name)
	case st.Owner.ID != "":
		line += "  held by " + st.Owner.Name
	}
	if st.Moving != "" {
		line += fmt.Sprintf("  %s, by %s", st.Moving, st.ReportedBy.Name)
	}
	if st.LastSeq > 0 && st.LastError == "" {
		line += fmt.Sprintf(", sequence %d", st.LastSeq)
	}
	if st.Lag != nil && *st.Lag > 0 && st.LastError == "" {
		line += fmt.Sprintf(", lag %d", *st.Lag)
	}
	if st.Parked > 0 {
		line += fmt.Sprintf(", parked %d", st.Parked)
	}
	fmt.Fprintln(p.w, line)
}
