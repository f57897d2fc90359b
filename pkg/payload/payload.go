// Package payload cuts what is sent to what the server takes in one message (max_payload). What is long
// goes in parts: the package says how many bytes a part may have, how long a text is in JSON, and where the
// cuts are. Encoding and sending are left to others. A server says its limit when it is connected to, so
// the limit is asked for each time.
package payload

import (
	"slices"
	"unicode/utf8"
)

const (
	// Default is NATS's own max_payload, for whoever has no connection to ask.
	Default = 1 << 20
	// largest is the longest part that is made, whatever the server takes: a part is held in memory by each
	// that handles it.
	largest = 256 << 10
	// spare is for headers, and for the client's own.
	spare = 256
)

// Room is how many bytes one message of several may have, where the server takes max of them.
func Room(limit int64) int {
	if limit <= 0 {
		limit = Default
	}
	return int(max(min(limit-spare, largest), 1))
}

// Parts cuts items so that each part has at most most of them, and at most room bytes by what size says of
// each. One that is larger by itself is a part of its own: whoever sends it will be told. There is always
// one part; without items it is empty.
func Parts[T any](items []T, most, room int, size func(*T) int) [][]T {
	var parts [][]T
	from, bytes := 0, 0
	for i := range items {
		n := size(&items[i])
		if i > from && (i-from == most || bytes+n > room) {
			parts = append(parts, items[from:i:i])
			from, bytes = i, 0
		}
		bytes += n
	}
	return append(parts, slices.Clip(items[from:]))
}

// Text is how many bytes a string has in JSON at the most, its quotes and a comma included.
func Text(s string) int {
	n := len(s) + len(`"",`)
	valid := utf8.ValidString(s)
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c == '<' || c == '>' || c == '&' || c == 0x7f:
			n += 5
		case c == '"' || c == '\\':
			n++
		case c >= utf8.RuneSelf && !valid:
			n += 5
		case c == 0xe2:
			n += 3 // perhaps a line separator
		}
	}
	return n
}
