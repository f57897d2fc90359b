package config

import (
	"errors"
	"strings"
	"testing"
)

// oneStore makes a snippet a whole configuration.
const oneStore = "\nstores: [{id: s, subscriptions: [{name: a, selector: x}]}]\n"

func environment(pairs map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		value, ok := pairs[name]
		return value, ok
	}
}

func mustParse(t *testing.T, yaml string, env map[string]string) *Config {
	t.Helper()
	c, err := Parse("f.yaml", []byte(yaml), environment(env))
	if err != nil {
		t.Fatalf("Parse:\n%v\nin\n%s", err, yaml)
	}
	return c
}

// problems are the lines of a Parse that must fail.
func problems(t *testing.T, yaml string, env map[string]string) []string {
	t.Helper()
	c, err := Parse("f.yaml", []byte(yaml), environment(env))
	var ps Problems
	if !errors.As(err, &ps) || len(ps) == 0 || c != nil {
		t.Fatalf("Parse = %v, %v; want Problems for\n%s", c, err, yaml)
	}
	return strings.Split(ps.Error(), "\n")
}
