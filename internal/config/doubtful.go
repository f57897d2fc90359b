package config

import (
	"fmt"
	"strings"

	"github.com/exesdb/subproxy/pkg/subscription"
)

// doubtful says why a selector probably picks no event, as what follows the selector in a sentence; empty:
// it may pick some. Selectors of both types are compared as they are written, and any text can be a name:
// so this is no mistake.
func doubtful(t subscription.Type, selector string) string {
	if t.IsJSON() {
		return ""
	}
	what := "stream id"
	if t == subscription.ByEventType {
		what = "event type"
	}
	switch {
	case strings.EqualFold(selector, subscription.AllStreams) && t == subscription.ByEventType:
		return fmt.Sprintf("picks events of exactly that type; for every event of the store write type: %s, selector: %s", subscription.ByStream, quote(subscription.AllStreams))
	case strings.EqualFold(selector, subscription.AllStreams) && selector != subscription.AllStreams:
		return fmt.Sprintf("picks events of exactly that stream id; for every event of the store write %s", quote(subscription.AllStreams))
	case strings.ContainsAny(selector, "*>"):
		return fmt.Sprintf("is no pattern: it picks events of exactly that %s; write one %s a subscription, type: %s, selector: %s for every event, or a JSON object with type: %s",
			what, what, subscription.ByStream, quote(subscription.AllStreams), subscription.ByEventPattern)
	}
	return ""
}
