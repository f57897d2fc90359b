package feed

import (
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// covers reports whether every subject that matches subject, which may have wildcards itself, matches
// pattern.
func covers(pattern, subject string) bool {
	for {
		p, pRest, pMore := strings.Cut(pattern, ".")
		s, sRest, sMore := strings.Cut(subject, ".")
		switch {
		case p == ">":
			return true
		case s == ">" || p != "*" && p != s:
			return false
		case !pMore || !sMore:
			return pMore == sMore
		}
		pattern, subject = pRest, sRest
	}
}

// republished tells the subject to subscribe to for live messages. It is empty for a stream that must be
// followed by a consumer: one that does not republish all of what it stores, republishes headers only, or
// allows no direct get.
func republished(cfg jetstream.StreamConfig) string {
	r := cfg.RePublish
	if r == nil || r.HeadersOnly || !cfg.AllowDirect {
		return ""
	}
	source := r.Source
	if source == "" {
		source = ">"
	}
	stored := cfg.Subjects
	if cfg.Mirror != nil || len(cfg.Sources) > 0 || cfg.SubjectTransform != nil {
		stored = []string{">"}
	}
	for _, s := range stored {
		if !covers(source, s) {
			return ""
		}
	}
	return destinationFilter(r.Destination)
}

// ModeOf is how a Feed follows a stream of that configuration.
func ModeOf(cfg jetstream.StreamConfig) string {
	if republished(cfg) == "" {
		return ModeOrdered
	}
	return ModeRepublish
}

// destinationFilter turns a republish destination, which may have subject mapping functions for tokens,
// into a subject that matches all it can give.
func destinationFilter(destination string) string {
	tokens := strings.Split(destination, ".")
	for i, t := range tokens {
		fn := strings.ToLower(strings.ReplaceAll(t, " ", ""))
		switch {
		case strings.HasPrefix(fn, "{{wildcard("), strings.HasPrefix(fn, "{{partition("), isDollarNumber(fn):
			tokens[i] = "*"
		case strings.Contains(fn, "{{"): // split and the like give any number of tokens
			return strings.Join(append(tokens[:i], ">"), ".")
		}
	}
	return strings.Join(tokens, ".")
}

func isDollarNumber(t string) bool {
	return len(t) > 1 && t[0] == '$' && strings.Trim(t[1:], "0123456789") == ""
}
