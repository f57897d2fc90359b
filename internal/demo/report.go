package demo

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// report is what is printed. Its lines fit into 120 columns.
type report struct {
	out      io.Writer
	o        Options
	began    time.Time
	faults   int
	outcomes [kindCount][][]outcome // by kind, then by fault: one a set
}

func newReport(o Options) *report { return &report{out: o.Out, o: o} }

// start says what is waited for.
func (r *report) start() {
	emitters, instances := "two", "two"
	if r.o.Compare {
		emitters, instances = "four", "four"
	}
	fmt.Fprintf(r.out, "starting a NATS cluster of three, %s emitters and %s instances…\n", emitters, instances)
}

// begin says what runs, and what to watch.
func (r *report) begin(urls string) {
	r.began = time.Now()
	url, _, _ := strings.Cut(urls, ",")
	processes, compared := 7, ""
	if r.o.Compare {
		processes = 11
		compared = fmt.Sprintf(`
Beside it the same again for store %s, without cluster events: its instances register by timer only,
every %s here; the default is 15 s, so expect three times as long. It suffers the same faults.
`, timerOnly, seconds(timer))
	}
	fmt.Fprintf(r.out, `
%d processes run, all of them children of this one: three nats-servers, and for store %s two emitters and
two instances with seven subscriptions of every type. %d events a second are appended to the store. Every few seconds
something breaks, and is mended when its effect was measured; for %v, seed %d.
%s
Watch it in another terminal:
  nats -s %[7]s sub 'exesdb.proxy.status.>'
  nats -s %[7]s sub 'exesdb.cluster.>'
  nats -s %[7]s kv ls exesdb_subscriptions

VERIFIED   from the fault until every registration that it touched was made anew and read back, as statuses tell
PAUSE      the longest that any subscriber had no event, beyond its usual interval
PUBLISHER  how long the publisher itself had to wait, where NATS was at fault
`, processes, store, r.o.Rate, r.o.Duration, r.o.Seed, compared, url)
	if r.o.Compare {
		fmt.Fprintln(r.out, "(timer)    the same of the store without cluster events; events are of both stores")
	}
	fmt.Fprintln(r.out)
	r.row("TIME", "WHAT BROKE", "VERIFIED", "(timer)", "PAUSE", "(timer)", "PUBLISHER", "SENT", "DELIVERED", "LOST", "DUP")
}

func (r *report) row(at, what, verified, timerVerified, pause, timerPause, publisher, sent, delivered, lost, duplicated any) {
	columns := []any{at, what, verified, timerVerified, pause, timerPause, publisher, sent, delivered, lost, duplicated}
	format := "%5v  %-34v %8v %8v %8v %8v %9v %7v %9v %5v %4v\n"
	if !r.o.Compare {
		columns = slices.Delete(slices.Delete(columns, 5, 6), 3, 4)
		format = "%5v  %-34v %8v %8v %9v %7v %9v %5v %4v\n"
	}
	fmt.Fprintf(r.out, format, columns...)
}

// line prints what a fault did.
func (r *report) line(f *fault, outcomes []outcome) {
	r.faults++
	r.outcomes[f.kind] = append(r.outcomes[f.kind], outcomes)
	var sum totals
	for _, o := range outcomes {
		sum = sum.plus(o.totals)
	}
	publisher, timerVerified, timerPause := "-", "", ""
	if f.kind.ofNode() {
		publisher = short(outcomes[0].publisher)
	}
	if len(outcomes) > 1 {
		timerVerified, timerPause = short(outcomes[1].verified), short(outcomes[1].delivery)
	}
	elapsed := f.at.Sub(r.began)
	r.row(fmt.Sprintf("%d:%02d", int(elapsed.Minutes()), int(elapsed.Seconds())%60), f.what,
		short(outcomes[0].verified), timerVerified, short(outcomes[0].delivery), timerPause, publisher,
		sum.sent, sum.delivered, sum.lost, sum.duplicated)
}

// summary prints the tables.
func (r *report) summary(sums []totals) *Result {
	result := &Result{Faults: r.faults}
	fmt.Fprintln(r.out)
	header := table.Row{"what broke", "times", "verified\nmedian", "\nmax", "pause\nmedian", "\nmax", "publisher\nmedian", "\nmax"}
	if r.o.Compare {
		header = append(header, "(timer)\nverified\nmedian", "\n\nmax", "(timer)\npause\nmedian", "\n\nmax")
		for i := range 8 {
			header[i] = "\n" + header[i].(string)
		}
	}
	t := r.table(header)
	for k := range kindCount {
		all := r.outcomes[k]
		if len(all) == 0 {
			continue
		}
		row := table.Row{k, len(all)}
		row = append(row, spread(all, 0, verifiedOf)...)
		row = append(row, spread(all, 0, deliveryOf)...)
		if k.ofNode() {
			row = append(row, spread(all, 0, publisherOf)...)
		} else {
			row = append(row, "-", "-")
		}
		if r.o.Compare {
			row = append(row, spread(all, 1, verifiedOf)...)
			row = append(row, spread(all, 1, deliveryOf)...)
		}
		t.AppendRow(row)
	}
	if r.faults > 0 {
		t.Render()
		fmt.Fprintln(r.out)
	}
	t = r.table(table.Row{"store", "sent", "delivered", "lost", "duplicated", "missed by publish"})
	for i, sum := range sums {
		name := store
		if i > 0 {
			name = timerOnly + " (timer)"
		}
		t.AppendRow(table.Row{name, sum.sent, sum.delivered, sum.lost, sum.duplicated, sum.dropped})
		result.Sent += sum.sent
		result.Delivered += sum.delivered
		result.Lost += sum.lost
		result.Duplicated += sum.duplicated
		result.Foreign += sum.foreign
		result.Dropped += sum.dropped
	}
	t.Render()
	fmt.Fprint(r.out, `
Sent are events appended and acknowledged; the rest is the sum over a store's seven subscribers, by the store's
sequence. Lost: wanted, appended and never delivered, by sinks request and stream. Duplicated: delivered once more;
request is at least once, and a reply that is in a server that dies makes its event come again. Sink publish is
at least once as far as the NATS server: what is in one that dies, on its way to subscribers, stands under "missed by
publish". The first NATS node is never the victim, because subscribers and publisher are connected to it, and leads the
stream of the sinks: what these lose, or wait for, is not the point here.
`)
	if r.o.Compare {
		fmt.Fprint(r.out, `By timer only nothing is lost here either: our emitters hold a subscription's events, and a new leader finds the old
registrations in the bucket. What it costs is the time until a deleted registration is back, and until anyone knows
that all is well. A store that forgets its registrations with its leader sends nothing until then.
`)
	}
	if result.Foreign > 0 {
		fmt.Fprintf(r.out, "%d events went to subscribers that do not want them.\n", result.Foreign)
	}
	return result
}

func (r *report) table(header table.Row) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(r.out)
	t.SuppressTrailingSpaces()
	t.SetStyle(table.StyleLight)
	t.Style().Options.DrawBorder, t.Style().Options.SeparateColumns = false, false
	t.Style().Format.Header = text.FormatDefault
	t.AppendHeader(header)
	columns := make([]table.ColumnConfig, len(header))
	for i := range columns {
		columns[i] = table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight}
	}
	columns[0].Align, columns[0].AlignHeader = text.AlignLeft, text.AlignLeft
	t.SetColumnConfigs(columns)
	return t
}

func verifiedOf(o outcome) time.Duration  { return o.verified }
func deliveryOf(o outcome) time.Duration  { return o.delivery }
func publisherOf(o outcome) time.Duration { return o.publisher }

// spread is the median and the maximum.
func spread(all [][]outcome, set int, of func(outcome) time.Duration) table.Row {
	values := make([]time.Duration, len(all))
	for i, outcomes := range all {
		if values[i] = of(outcomes[set]); values[i] < 0 {
			values[i] = patience
		}
	}
	slices.Sort(values)
	n := len(values)
	median := (values[(n-1)/2] + values[n/2]) / 2
	return table.Row{short(median), short(values[n-1])}
}

// short is a duration in three digits.
func short(d time.Duration) string {
	switch {
	case d < 0 || d >= patience:
		return "> " + seconds(patience)
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	default:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.0f s", d.Seconds()) }
