package main

import (
	"errors"
	"strings"
	"testing"
)

func TestMistakesInADemoAreUsageErrors(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"demo x", "subproxy demo takes no arguments, not 1"},
		{"demo --duration 9s", "--duration: at least 10s, not 9s"},
		{"demo --duration soon", "--duration"},
		{"demo --rate 9", "--rate: 10 to 500, not 9"},
		{"demo --rate 501", "--rate: 10 to 500, not 501"},
		{"demo --seed -1", "--seed"},
		{"demo --fly", "see subproxy demo --help"},
	} {
		out, err := execute(t, strings.Fields(c.args)...)
		var use *usageError
		if !errors.As(err, &use) || !strings.Contains(err.Error(), c.says) || out != "" {
			t.Errorf("subproxy %s: got %v; want a usage error that says %s\n%s", c.args, err, c.says, out)
		}
	}
}
