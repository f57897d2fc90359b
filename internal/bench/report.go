package bench

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
)

// Report is a bench command's result.
type Report struct {
	Bench   string   `json:"bench"`
	Setup   string   `json:"setup"`
	Figures []Figure `json:"figures"`
	Targets []Target `json:"targets"`
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
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Bound float64 `json:"bound"` // at most
	Unit  string  `json:"unit"`
	Met   bool    `json:"met"`
}

func (r *Report) durations(name string, samples []time.Duration) time.Duration {
	p50, p99 := quantile(samples, 0.5), quantile(samples, 0.99)
	r.Figures = append(r.Figures, Figure{Name: name, Samples: len(samples), P50: micros(p50), P99: micros(p99), Unit: "µs"})
	return p50
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

func (r *Report) number(name string, value float64, unit string) {
	r.Figures = append(r.Figures, Figure{Name: name, Samples: 1, P50: value, P99: value, Unit: unit})
}

func (r *Report) target(name string, value, bound float64, unit string) {
	r.Targets = append(r.Targets, Target{Name: name, Value: value, Bound: bound, Unit: unit, Met: value <= bound})
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
func quantile(samples []time.Duration, q float64) time.Duration {
	if len(samples) == 0 {
		return 0
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
	if len(r.Targets) == 0 {
		return
	}
	fmt.Fprintln(w)
	t = newTable(w, "target", "value", "at most", "")
	for _, x := range r.Targets {
		verdict := "met"
		if !x.Met {
			verdict = "MISSED"
		}
		t.AppendRow(table.Row{x.Name, show(x.Value, x.Unit), show(x.Bound, x.Unit), verdict})
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
	default:
		return fmt.Sprintf("%.2f %s", v, unit)
	}
}
