package feed

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

func TestCovers(t *testing.T) {
	for _, tc := range []struct {
		pattern, subject string
		want             bool
	}{
		{">", "a", true}, {">", ">", true}, {"a.>", "a.b.c", true}, {"a.>", "a", false}, {"a.*", "a.b", true},
		{"a.*", "a.b.c", false}, {"a.*", "a.>", false}, {"a.*", "a.*", true}, {"a.b", "a.*", false}, {"a.b", "a.b", true},
		{"a.b.c", "a.b", false}, {"*.b", "a.b", true}, {"a", "b", false},
	} {
		if got := covers(tc.pattern, tc.subject); got != tc.want {
			t.Errorf("covers(%q, %q) = %v", tc.pattern, tc.subject, got)
		}
	}
}

func TestWhatToSubscribeTo(t *testing.T) {
	stream := func(direct bool, r *jetstream.RePublish) jetstream.StreamConfig {
		return jetstream.StreamConfig{Subjects: []string{"a.>", "b.>"}, AllowDirect: direct, RePublish: r}
	}
	for name, tc := range map[string]struct {
		cfg  jetstream.StreamConfig
		want string
	}{
		"all":           {stream(true, &jetstream.RePublish{Source: ">", Destination: "copy.>"}), "copy.>"},
		"no source":     {stream(true, &jetstream.RePublish{Destination: "copy.>"}), "copy.>"},
		"no republish":  {stream(true, nil), ""},
		"no direct get": {stream(false, &jetstream.RePublish{Source: ">", Destination: "copy.>"}), ""},
		"headers only":  {stream(true, &jetstream.RePublish{Source: ">", Destination: "copy.>", HeadersOnly: true}), ""},
		"a part":        {stream(true, &jetstream.RePublish{Source: "a.>", Destination: "copy.>"}), ""},
		"mapped tokens": {stream(true, &jetstream.RePublish{Source: ">", Destination: "x.$2.{{wildcard(1)}}.{{partition(3,1)}}"}), "x.*.*.*"},
		"split":         {stream(true, &jetstream.RePublish{Source: ">", Destination: "x.{{split(1,-)}}.y"}), "x.>"},
		"mirror":        {jetstream.StreamConfig{Mirror: &jetstream.StreamSource{}, AllowDirect: true, RePublish: &jetstream.RePublish{Source: "a.>", Destination: "c"}}, ""},
	} {
		if got := republished(tc.cfg); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
