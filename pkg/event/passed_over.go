package event

import (
	"fmt"
	"strings"
	"time"

	"github.com/exesdb/subproxy/pkg/payload"
)

// PassedOver are messages of a store's stream that are no events, and so reach nobody. The server's markers
// and schedules are none of them.
type PassedOver struct {
	Messages uint64    `json:"messages"` // that the emitter found since it leads; from 1
	Sequence uint64    `json:"seq"`      // of the last of them, in the store
	Subject  string    `json:"subject"`  // likewise, and why it is no event; both cut to 200 bytes
	Reason   string    `json:"reason"`
	At       time.Time `json:"at"` // when the last of them was found, UTC
}

// String says it in words.
func (p *PassedOver) String() string {
	return fmt.Sprintf("messages of the store's stream that are no events reach nobody: %d so far; the last is at sequence %d, on %s: %s",
		p.Messages, p.Sequence, p.Subject, p.Reason)
}

// Size is how many bytes it has in JSON at the most, its name in a message included.
func (p *PassedOver) Size() int {
	if p == nil {
		return 0
	}
	return 180 + payload.Text(p.Subject) + payload.Text(p.Reason)
}

// Brief cuts a text that is only told, and makes it valid UTF-8.
func Brief(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most-len("…")] + "…"
	}
	return strings.ToValidUTF8(s, "")
}
