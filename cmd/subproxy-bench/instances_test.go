package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/exesdb/subproxy/internal/bench"
	"github.com/exesdb/subproxy/test/harness"
)

func TestBenchOfInstancesLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("runs half a dozen processes")
	}
	out, err := execute(t, "instances", "--instances", "2", "--subscriptions", "60", "--sampled", "6", "--json", "--subproxy", harness.Program(t, "subproxy"))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, report, _ := strings.Cut(out, "{") // after what it says of its progress
	var r bench.Report
	if err := json.Unmarshal([]byte("{"+report), &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	counted := 0
	for _, target := range r.Targets {
		if strings.Contains(target.Name, "events") {
			if counted++; !target.Met {
				t.Errorf("%s: %s", target.Name, target.Got())
			}
		}
	}
	if counted != 10 { // lost and twice, of each of the moves
		t.Errorf("%d targets are about events:\n%s", counted, out)
	}
}
