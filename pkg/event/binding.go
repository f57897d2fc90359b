package event

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
)

// The NATS protocol binding of CloudEvents (cloudevents/spec, 1.0.3-wip): how attributes stand in headers.

// EncodeValue writes an attribute's value as it stands in a header: what is not printable ASCII, and space,
// quote and percent sign, as %XX. Bytes that are not UTF-8 stay as they are: an encoded one would be
// refused.
func EncodeValue(s string) string {
	i := plainPrefix(s)
	if i == len(s) {
		return s
	}
	b := append(make([]byte, 0, len(s)+16), s[:i]...)
	for i < len(s) {
		_, size := utf8.DecodeRuneInString(s[i:])
		for _, c := range []byte(s[i : i+size]) {
			if plain[c] || c >= utf8.RuneSelf && size == 1 {
				b = append(b, c)
				continue
			}
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
		i += size
	}
	return string(b)
}

// DecodeValue reads an attribute's value from a header: where the whole of it is in double quotes without
// these and their backslashes, and then percent-decoded once. What is no escape stands for itself, so that
// values which nobody encoded are read as they are. The error, ErrNotAnEvent, is for escapes that are not
// UTF-8.
func DecodeValue(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '"') < 0 {
		return s, nil
	}
	s = unquoted(s)
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	if !utf8.Valid(b) && utf8.ValidString(s) {
		return "", fmt.Errorf("%w: %q is not the percent-encoding of UTF-8", ErrNotAnEvent, s)
	}
	return string(b), nil
}

// unquoted unescapes a quoted string of RFC 7230, section 3.2.6. Quotes that don't enclose all of the value
// are part of it.
func unquoted(s string) string {
	if len(s) < 2 || s[0] != '"' {
		return s
	}
	var b []byte
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' && i == len(s)-1:
			return string(b)
		case c == '"':
			return s
		case c == '\\' && i+1 < len(s):
			i++
			b = append(b, s[i])
		default:
			b = append(b, c)
		}
	}
	return s
}

const upperHex = "0123456789ABCDEF"

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	default:
		return -1
	}
}

// plain are the bytes of a header's value that stand for themselves, whoever wrote it.
var plain = func() (is [256]bool) {
	for c := '!'; c <= '~'; c++ {
		is[c] = c != '"' && c != '%'
	}
	return is
}()

func plainPrefix(s string) int {
	for i := range len(s) {
		if !plain[s[i]] {
			return i
		}
	}
	return len(s)
}

// structuredType begins the content type of an event whose attributes are in its payload.
const structuredType = "application/cloudevents"

// IsStructured reports whether a header says that the event's attributes are in the payload: structured
// mode.
func IsStructured(header, value string) bool {
	return strings.EqualFold(header, ContentTypeHeader) && isStructured(value)
}

func isStructured(contentType string) bool {
	return len(contentType) >= len(structuredType) && strings.EqualFold(contentType[:len(structuredType)], structuredType)
}

// form is what is seen of a message's headers without taking them apart.
type form struct {
	contentType string // the name of the header with the content type; empty: there is none
	plain       bool   // every attribute is there once, under its name, and reads as it stands

	// Values of a plain one's headers; empty where they are missing. So each header is looked at once for
	// each event.
	specVersion, id, typ, subject, source, time, dataContentType, mediaType string
}

// complete reports whether a plain one has every attribute that is sent, and says its content type twice or
// not at all.
func (f *form) complete() bool {
	return f.specVersion != "" && f.id != "" && f.typ != "" && f.subject != "" && f.source != "" && f.time != "" && f.dataContentType == f.mediaType
}

// formOf looks at each header once.
func formOf(h nats.Header) form {
	f := form{plain: true}
	for k, v := range h {
		f.look(k, v)
	}
	return f
}

// stripped is formOf for headers from which what is JetStream's and what is of a hand-off is taken away.
func stripped(h nats.Header) form {
	f := form{plain: true}
	for k, v := range h {
		if strings.HasPrefix(k, natsPrefix) || isHandoff(k) {
			delete(h, k)
			continue
		}
		f.look(k, v)
	}
	return f
}

func (f *form) look(k string, v []string) {
	switch {
	case len(k) < len(attributePrefix) || k[0]|0x20 != 'c':
	case isAttribute(k):
		if f.plain {
			if f.plain = len(v) == 1 && isLower(k) && plainPrefix(v[0]) == len(v[0]); f.plain {
				f.note(k, v[0])
			}
		}
	case len(k) == len(ContentTypeHeader) && strings.EqualFold(k, ContentTypeHeader):
		if f.contentType != "" || len(v) != 1 || isStructured(v[0]) {
			f.plain = false
		} else {
			f.mediaType = v[0]
		}
		if k == ContentTypeHeader || f.contentType == "" || f.contentType != ContentTypeHeader && k < f.contentType {
			f.contentType = k
		}
	}
}

func (f *form) note(header, value string) {
	switch header {
	case SpecVersionHeader:
		f.specVersion = value
	case IDHeader:
		f.id = value
	case TypeHeader:
		f.typ = value
	case SubjectHeader:
		f.subject = value
	case SourceHeader:
		f.source = value
	case TimeHeader:
		f.time = value
	case DataContentTypeHeader:
		f.dataContentType = value
	}
}

func isAttribute(h string) bool {
	return len(h) > len(attributePrefix) && h[0]|0x20 == 'c' && h[1]|0x20 == 'e' && h[2] == '-'
}

func isLower(s string) bool {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return false
		}
	}
	return true
}

// Unpack brings an event's headers to the form in which they are sent on: the binary content mode, with one
// set of attributes, each once, under its name in lower case, encoded. It changes the headers, and returns
// the data: of an event in structured mode, what its envelope has. The error is ErrNotAnEvent; the headers
// are as they were then.
func Unpack(h nats.Header, data []byte) ([]byte, error) {
	return unpack(h, data, formOf(h))
}

func unpack(h nats.Header, data []byte, f form) ([]byte, error) {
	if f.plain {
		return data, nil
	}
	attributes, err := attributesOf(h)
	if f.contentType != "" && isStructured(first(h, f.contentType)) {
		attributes, data, err = openEnvelope(first(h, f.contentType), data)
	}
	if err != nil {
		return data, err
	}
	contentType := first(h, f.contentType)
	for k := range h {
		if isAttribute(k) || strings.EqualFold(k, ContentTypeHeader) {
			delete(h, k)
		}
	}
	for name, value := range attributes {
		h[attributePrefix+name] = []string{EncodeValue(value)}
	}
	if contentType != "" && !isStructured(contentType) {
		h[f.contentType] = []string{contentType}
	}
	return data, nil
}

// attributesOf decodes the attributes of an event in binary mode. Of several headers for one attribute that
// in lower case counts, and else the first in the order of their names.
func attributesOf(h nats.Header) (map[string]string, error) {
	attributes := map[string]string{}
	for k, v := range h {
		if !isAttribute(k) || len(v) == 0 || v[0] == "" {
			continue
		}
		lower := strings.ToLower(k)
		if k != lower && !rules(h, k, lower) {
			continue
		}
		value, err := DecodeValue(v[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
		attributes[lower[len(attributePrefix):]] = value
	}
	return attributes, nil
}

// rules reports whether, of the spellings of a header, this one counts.
func rules(h nats.Header, spelling, lower string) bool {
	var others []string
	for k, v := range h {
		if strings.EqualFold(k, lower) && len(v) > 0 && v[0] != "" {
			others = append(others, k)
		}
	}
	return !slices.Contains(others, lower) && slices.Min(others) == spelling
}
