package service

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/pkg/proxy"
)

// Who embeds an instance has what a configuration has that says nothing.
func TestDefaultsAreThoseOfTheConfiguration(t *testing.T) {
	c, err := config.Parse("", []byte("stores: [{id: s, subscriptions: [{name: a, selector: x}]}]\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(settings(c), proxy.DefaultSettings()); diff != "" {
		t.Errorf("(-configuration +default):\n%s", diff)
	}
}
