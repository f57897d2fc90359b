package config

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func FuzzParse(f *testing.F) {
	var defaults bytes.Buffer
	if err := WriteDefaults(&defaults); err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		"", "# nothing\n", oneStore, defaults.String(),
		"nats: [1\n", "nats:\n\turl: x\n", "---\n{}\n---\n{}\n", "\xff", "\xef\xbb\xbflog: {}\n", "a: 'x\n", "%YAML 1.2\n---\n",
		"stores: &s\n- *s\n", "stores: [{<<: *x}]\n", "stores: [&a {id: x}, {<<: [*a, *a], id: y}]\n", "<<: {log: {<<: 1}}\n",
		"log: {level: !!str info}\n", "log: !x\n", "? log\n: {level: |-\n  info}\n", "? [x]\n: 1\n", "&a log: *a\n", "*a : 1\n",
		"stores:\n -\n - ~\n - []\n - {subscriptions: [~, 1, {}]}\n", "status: {summary_interval: 1e99, heartbeat_interval: .inf}\n",
		"log: {level: \"a\\nb\", \"x\\ny\": 1}\n", "log:\r\n  level: x\r\n  leve: y\r", "nats: &n\nlog: *n\n", "nats: {url: ' ,://,%zz', tls: {ca: .}}\n",
		"stores: [{id: s, defaults: {forward: {}}, subscriptions: [{name: a, type: by_event_payload, selector: '{'}]}]\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f.yaml", data, nil)
		if err == nil {
			if c == nil || len(c.Stores) == 0 || c.Instance.Name == "" {
				t.Fatalf("accepted without stores or name: %+v", c)
			}
			return
		}
		var ps Problems
		if !errors.As(err, &ps) || len(ps) == 0 || c != nil {
			t.Fatalf("Parse = %v, %v", c, err)
		}
		if lines := strings.Count(ps.Error(), "\n") + 1; lines != len(ps) {
			t.Errorf("%d problems on %d lines:\n%v", len(ps), lines, ps)
		}
		// A lone \r ends a line in YAML.
		lines := bytes.Count(data, []byte("\n")) + bytes.Count(data, []byte("\r")) + 1
		for _, p := range ps {
			if p.Line < 1 || p.Line > lines || p.Column < 1 || p.Column > len(data)+1 || p.Message == "" || p.File != "f.yaml" {
				t.Errorf("no sensible place in %d lines of %q: %+v", lines, data, p)
			}
		}
	})
}
