package bench

import (
	"io"
	"strings"
	"testing"
	"time"
)

func TestScaleMeasuresEachNumberItsGrowthAndTheStorms(t *testing.T) {
	if testing.Short() {
		t.Skip("runs servers and instances for half a minute")
	}
	r, err := Scale(t.Context(), ScaleOptions{Subscriptions: []int{5, 50}, Servers: 1, Rounds: 1, Idle: time.Second, Storms: true, Progress: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]Figure{}
	for _, f := range r.Figures {
		byName[f.Name] = f
	}
	for _, name := range []string{
		"raw connection: idle, CPU",
		"5 subscriptions: raw pipelined puts and reading them back",
		"50 subscriptions: cold start to all verified",
		"50 subscriptions: leader change to all verified",
		"50 subscriptions: idle, messages sent",
		"from 5 to 50 subscriptions, growth of idle messages",
		"leader change with 50 subscriptions: until all are verified, while asked",
		"NATS killed and started again with 50 subscriptions: until all are verified, while asked",
	} {
		if f, ok := byName[name]; !ok || f.Samples == 0 || f.P50 <= 0 {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if f := byName["raw connection: idle, messages sent"]; f.P50 != 0 {
		t.Errorf("an idle raw connection sent %v messages a second", f.P50)
	}
	if len(r.Targets) != 3 || !strings.Contains(r.Targets[0].Name, "status of one") {
		t.Errorf("targets %+v", r.Targets)
	}
}

func TestWhatAnOperatorWasAnsweredIsReported(t *testing.T) {
	var a answers
	a.add(answers{raw: []time.Duration{time.Millisecond, 50 * time.Millisecond}, status: []time.Duration{time.Millisecond, 200 * time.Millisecond}, acted: []time.Duration{time.Second}, refused: 1})
	r := &Report{}
	a.tell(r, "storm: ")
	if missed := r.Missed(); len(missed) != 1 || missed[0].Got() != "200.00 ms" {
		t.Errorf("missed %+v", missed)
	}
	if len(r.Figures) != 6 || r.Figures[3].P50 != 200_000 || len(r.Notes) != 1 {
		t.Errorf("%+v", r)
	}
}
