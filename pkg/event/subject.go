package event

import "strings"

// ValidSubject reports whether a message can be published to a subject: it has no empty token, no wildcard,
// no blank and no control character.
func ValidSubject(subject string) bool {
	for token := range strings.SplitSeq(subject, ".") {
		if token == "" || token == "*" || token == ">" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return false
		}
	}
	return true
}
