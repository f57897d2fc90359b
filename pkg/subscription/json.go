package subscription

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep JSON may be nested: the parser and what walks its result are recursive. PostgreSQL
// has no such number; its max_stack_depth lets some 9,000 levels through.
const maxDepth = 10_000

// DecodeJSON decodes one JSON value as a Matcher compares it: nil, bool, string, json.Number, []any or
// map[string]any. It takes what PostgreSQL's jsonb takes, and ok is false for the rest: anything behind the
// value, text that is not UTF-8, \u0000, half of a surrogate pair, and numbers that its numeric can't hold.
// Of members with one name the last counts.
func DecodeJSON(data []byte) (value any, ok bool) {
	if !utf8.Valid(data) {
		return nil, false
	}
	p := jsonParser{text: string(data)} // one copy, of which all strings without escapes are parts
	if value, ok = p.value(0); !ok {
		return nil, false
	}
	if p.space(); p.at < len(p.text) {
		return nil, false
	}
	return value, true
}

// jsonParser reads RFC 8259's JSON.
type jsonParser struct {
	text string
	at   int
}

func (p *jsonParser) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// next skips white space, and takes the byte if it comes then.
func (p *jsonParser) next(c byte) bool {
	p.space()
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *jsonParser) value(depth int) (any, bool) {
	p.space()
	if p.at == len(p.text) || depth > maxDepth {
		return nil, false
	}
	switch c := p.text[p.at]; {
	case c == '{':
		p.at++
		return p.object(depth)
	case c == '[':
		p.at++
		return p.array(depth)
	case c == '"':
		p.at++
		return boxed(p.string())
	case c == 't':
		return true, p.word("true")
	case c == 'f':
		return false, p.word("false")
	case c == 'n':
		return nil, p.word("null")
	case c == '-' || '0' <= c && c <= '9':
		return boxed(p.number())
	default:
		return nil, false
	}
}

func boxed[T any](v T, ok bool) (any, bool) { return v, ok }

func (p *jsonParser) word(w string) bool {
	if !strings.HasPrefix(p.text[p.at:], w) {
		return false
	}
	p.at += len(w)
	return true
}

func (p *jsonParser) object(depth int) (any, bool) {
	members := map[string]any{}
	if p.next('}') {
		return members, true
	}
	for {
		if !p.next('"') {
			return nil, false
		}
		name, ok := p.string()
		if !ok || !p.next(':') {
			return nil, false
		}
		if members[name], ok = p.value(depth + 1); !ok {
			return nil, false
		}
		if p.next('}') {
			return members, true
		}
		if !p.next(',') {
			return nil, false
		}
	}
}

func (p *jsonParser) array(depth int) (any, bool) {
	elements := []any{}
	if p.next(']') {
		return elements, true
	}
	for {
		element, ok := p.value(depth + 1)
		if !ok {
			return nil, false
		}
		elements = append(elements, element)
		if p.next(']') {
			return elements, true
		}
		if !p.next(',') {
			return nil, false
		}
	}
}

// string reads what follows the opening quote.
func (p *jsonParser) string() (string, bool) {
	start := p.at
	for ; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; {
		case c == '"':
			p.at++
			return p.text[start : p.at-1], true
		case c == '\\':
			return p.escaped(start)
		case c < ' ':
			return "", false
		}
	}
	return "", false
}

var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

func (p *jsonParser) escaped(start int) (string, bool) {
	b := append(make([]byte, 0, p.at-start+32), p.text[start:p.at]...)
	for p.at < len(p.text) {
		c := p.text[p.at]
		p.at++
		switch {
		case c == '"':
			return string(b), true
		case c < ' ':
			return "", false
		case c != '\\':
			b = append(b, c)
		case p.at == len(p.text):
			return "", false
		case p.text[p.at] == 'u':
			r, ok := p.unicode()
			if !ok {
				return "", false
			}
			b = utf8.AppendRune(b, r)
		case escapes[p.text[p.at]] == 0:
			return "", false
		default:
			b = append(b, escapes[p.text[p.at]])
			p.at++
		}
	}
	return "", false
}

// unicode reads what follows the backslash: one \uXXXX, or the two of a surrogate pair.
func (p *jsonParser) unicode() (rune, bool) {
	r, ok := p.hex()
	switch {
	case !ok || r == 0 || 0xDC00 <= r && r < 0xE000:
		return 0, false
	case r < 0xD800 || r >= 0xE000:
		return r, true
	case !p.word(`\`):
		return 0, false
	}
	low, ok := p.hex()
	if !ok || low < 0xDC00 || low >= 0xE000 {
		return 0, false
	}
	return (r-0xD800)<<10 | (low - 0xDC00) + 0x10000, true
}

func (p *jsonParser) hex() (r rune, ok bool) {
	const digits = 4
	if !p.word("u") || len(p.text)-p.at < digits {
		return 0, false
	}
	for range digits {
		switch c := p.text[p.at]; {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
		p.at++
	}
	return r, true
}

func (p *jsonParser) number() (json.Number, bool) {
	start := p.at
	if p.text[p.at] == '-' {
		p.at++
	}
	switch {
	case p.at < len(p.text) && p.text[p.at] == '0':
		p.at++
	case !p.digits():
		return "", false
	}
	if p.word(".") && !p.digits() {
		return "", false
	}
	if p.word("e") || p.word("E") {
		if !p.word("+") {
			p.word("-")
		}
		if !p.digits() {
			return "", false
		}
	}
	n := json.Number(p.text[start:p.at])
	return n, storable(n)
}

// digits takes all that come, and reports whether any did.
func (p *jsonParser) digits() bool {
	start := p.at
	for p.at < len(p.text) && '0' <= p.text[p.at] && p.text[p.at] <= '9' {
		p.at++
	}
	return p.at > start
}
