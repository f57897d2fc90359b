package bench

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
)

// Report is a bench command's result.
type Report struct {
	Bench   string   `json:"bench"`
	Setup   string   `json:"setup"`
	Figures []Figure `json:"figures"`
	Targets []Target `json:"targets"`
	Notes   []string `json:"notes,omitempty"`
}

// Figure is something measured.
type Figure struct {
	Name    string  `json:"name"`
	Samples int     `json:"samples"`
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
	Unit    string  `json:"unit"`
}

// Target is a bound on a figure or a ratio of two.
type Target struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Bound   float64 `json:"bound"`
	AtLeast bool    `json:"at_least"` // the bound is the least that is wanted; else the most
	Unit    string  `json:"unit"`
	Met     bool    `json:"met"`
}

// Wanted is the bound in words.
func (t Target) Wanted() string {
	if t.AtLeast {
		return "at least " + show(t.Bound, t.Unit)
	}
	return "at most " + show(t.Bound, t.Unit)
}

// Got is the value in words.
func (t Target) Got() string { return show(t.Value, t.Unit) }

func (r *Report) durations(name string, samples []time.Duration) time.Duration {
	p50, p99 := quantile(samples, 0.5), quantile(samples, 0.99)
	r.Figures = append(r.Figures, Figure{Name: name, Samples: len(samples), P50: micros(p50), P99: micros(p99), Unit: "µs"})
	return p50
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

func (r *Report) number(name string, value float64, unit string) {
	r.Figures = append(r.Figures, Figure{Name: name, Samples: 1, P50: value, P99: value, Unit: unit})
}

// rates notes how many a second each round saw. The p99 of a rate is what 99 of 100 rounds reach.
func (r *Report) rates(name string, samples []float64, unit string) float64 {
	p50, low := quantile(samples, 0.5), quantile(samples, 0.01)
	r.Figures = append(r.Figures, Figure{Name: name, Samples: len(samples), P50: p50, P99: low, Unit: unit})
	return p50
}

func (r *Report) target(name string, value, bound float64, unit string) {
	r.Targets = append(r.Targets, Target{Name: name, Value: value, Bound: bound, Unit: unit, Met: value <= bound})
}

func (r *Report) targetAtLeast(name string, value, bound float64, unit string) {
	r.Targets = append(r.Targets, Target{Name: name, Value: value, Bound: bound, AtLeast: true, Unit: unit, Met: value >= bound})
}

// note adds what is worth a sentence and is no figure.
func (r *Report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// Missed returns the targets that were not met.
func (r *Report) Missed() (missed []Target) {
	for _, t := range r.Targets {
		if !t.Met {
			missed = append(missed, t)
		}
	}
	return missed
}

// quantile of samples, which it sorts: the nearest rank.
func quantile[T cmp.Ordered](samples []T, q float64) (at T) {
	if len(samples) == 0 {
		return at
	}
	slices.Sort(samples)
	return samples[min(int(q*float64(len(samples))), len(samples)-1)]
}

// Write prints the report as tables.
func (r *Report) Write(w io.Writer) {
	fmt.Fprintf(w, "%s: %s\n\n", r.Bench, r.Setup)
	t := newTable(w, "measured", "samples", "p50", "p99")
	for _, f := range r.Figures {
		t.AppendRow(table.Row{f.Name, f.Samples, show(f.P50, f.Unit), show(f.P99, f.Unit)})
	}
	t.Render()
	for _, n := range r.Notes {
		fmt.Fprintf(w, "\n%s\n", n)
	}
	if len(r.Targets) == 0 {
		return
	}
	fmt.Fprintln(w)
	t = newTable(w, "target", "value", "wanted", "")
	for _, x := range r.Targets {
		outcome := "met"
		if !x.Met {
			outcome = "MISSED"
		}
		t.AppendRow(table.Row{x.Name, x.Got(), x.Wanted(), outcome})
	}
	t.Render()
}

func newTable(w io.Writer, header ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.Style().Options.DrawBorder, t.Style().Options.SeparateColumns = false, false
	t.AppendHeader(header)
	return t
}

func show(v float64, unit string) string {
	switch {
	case unit == "µs" && v >= 1e6:
		return fmt.Sprintf("%.2f s", v/1e6)
	case unit == "µs" && v >= 1e4:
		return fmt.Sprintf("%.1f ms", v/1e3)
	case unit == "":
		return fmt.Sprintf("%.0f", v)
	case strings.HasSuffix(unit, "/s"):
		return fmt.Sprintf("%.0f %s", v, unit)
	default:
		return fmt.Sprintf("%.2f %s", v, unit)
	}
}
