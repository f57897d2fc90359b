package subscription

import (
	"errors"
	"fmt"
	"strings"
)

// Errors of the token codec.
var (
	// ErrEmptyName is returned for an empty store, selector, name, stream id or event type.
	ErrEmptyName = errors.New("empty name")
	// ErrBadToken is returned for a token that EncodeToken can't have made.
	ErrBadToken = errors.New("malformed token")
)

const upperHex = "0123456789ABCDEF"

// EncodeToken writes a name from outside as one token of a NATS subject or key: bytes outside A-Z a-z 0-9 _
// - become =XX, in upper-case hex. The empty string encodes to itself, so callers refuse it first (see
// Validate).
func EncodeToken(name string) string {
	if isPlain(name) {
		return name
	}
	var b strings.Builder
	b.Grow(len(name) + 8)
	for i := range len(name) {
		c := name[i]
		if plain(c) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('=')
		b.WriteByte(upperHex[c>>4])
		b.WriteByte(upperHex[c&15])
	}
	return b.String()
}

// TokenOrStar is EncodeToken for a filter of subjects or keys: the empty string is *, which matches every
// token.
func TokenOrStar(name string) string {
	if name == "" {
		return "*"
	}
	return EncodeToken(name)
}

// DecodeToken is the inverse of EncodeToken. It accepts exactly what EncodeToken produces, so that no two
// tokens stand for one name: lower-case hex, an escaped plain byte and the empty token are refused with
// ErrBadToken.
func DecodeToken(token string) (string, error) {
	if token == "" {
		return "", fmt.Errorf("%w: %w", ErrBadToken, ErrEmptyName)
	}
	if isPlain(token) {
		return token, nil
	}
	b := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		c := token[i]
		switch {
		case plain(c):
			b = append(b, c)
		case c == '=' && i+2 < len(token):
			hi, lo := strings.IndexByte(upperHex, token[i+1]), strings.IndexByte(upperHex, token[i+2])
			if hi < 0 || lo < 0 || plain(byte(hi<<4|lo)) {
				return "", fmt.Errorf("%w: %q at byte %d", ErrBadToken, token, i)
			}
			b = append(b, byte(hi<<4|lo))
			i += 2
		default:
			return "", fmt.Errorf("%w: %q at byte %d", ErrBadToken, token, i)
		}
	}
	return string(b), nil
}

func isPlain(s string) bool {
	for i := range len(s) {
		if !plain(s[i]) {
			return false
		}
	}
	return true
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}
