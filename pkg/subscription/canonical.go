package subscription

import (
	"strconv"
	"unicode/utf8"
)

// Canonical is the subscription with its selector written as everybody writes it who means the same: of a
// selector that is JSON the members sorted, nothing between them, and numbers in one form. What is not
// valid stays as it is.
//
// A by_event_pattern selector keeps its numbers as they are written: attributes are compared as text.
func (s Subscription) Canonical() Subscription {
	if s.Type.IsJSON() {
		if value, ok := DecodeJSON([]byte(s.Selector)); ok {
			p := newPattern(value)
			s.Selector = string(p.append(make([]byte, 0, len(s.Selector)), s.Type))
		}
	}
	return s
}

// SameAs reports whether both are one subscription, however their selectors are written.
func (s Subscription) SameAs(other Subscription) bool {
	return s.Store == other.Store && s.Name == other.Name && s.Type == other.Type &&
		(s.Selector == other.Selector || s.Canonical().Selector == other.Canonical().Selector)
}

// append writes the canonical text.
func (p *pattern) append(b []byte, t Type) []byte {
	switch p.kind {
	case isObject:
		b = append(b, '{')
		for i := range p.members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendQuoted(b, p.members[i].name), ':')
			b = p.members[i].append(b, t)
		}
		return append(b, '}')
	case isArray:
		b = append(b, '[')
		for i := range p.elements {
			if i > 0 {
				b = append(b, ',')
			}
			b = p.elements[i].append(b, t)
		}
		return append(b, ']')
	case isNumber:
		if t == ByEventPattern {
			return append(b, p.text...)
		}
		return append(b, p.number.String()...)
	}
	switch v := p.scalar.(type) {
	case string:
		return appendQuoted(b, v)
	case bool:
		return strconv.AppendBool(b, v)
	default:
		return append(b, "null"...)
	}
}

// appendQuoted writes a JSON string with no more escapes than it needs.
func appendQuoted(b []byte, s string) []byte {
	const short = "\"\"\\\\\bb\ff\nn\rr\tt"
	b = append(b, '"')
next:
	for _, r := range s {
		for i := 0; i < len(short); i += 2 {
			if r == rune(short[i]) {
				b = append(b, '\\', short[i+1])
				continue next
			}
		}
		if r < ' ' {
			b = append(b, '\\', 'u', '0', '0', upperHex[r>>4]|0x20, upperHex[r&15]|0x20)
			continue
		}
		b = utf8.AppendRune(b, r)
	}
	return append(b, '"')
}
