package subscription

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// AllStreams is the by_stream selector that picks every event of the store.
const AllStreams = "$all"

// Matchable is what a selector looks at; event.Event is one.
type Matchable interface {
	StreamID() string
	EventType() string
	// Attribute is a CloudEvents attribute, extensions included.
	Attribute(name string) (value string, ok bool)
	// JSON is the data decoded, numbers as json.Number; ok is false where the data is not JSON.
	JSON() (value any, ok bool)
}

// Matcher is a subscription's selector, compiled. It is safe for concurrent use.
type Matcher struct {
	typ      Type
	selector string
	pattern  map[string]any
}

// Compile makes the subscription's matcher. The error is Validate's.
func (s Subscription) Compile() (*Matcher, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	m := &Matcher{typ: s.Type, selector: s.Selector}
	if s.Type == ByEventPattern || s.Type == ByEventPayload {
		value, ok := DecodeJSON([]byte(s.Selector))
		m.pattern, _ = value.(map[string]any)
		if !ok || m.pattern == nil {
			return nil, fmt.Errorf("selector %q of type %s: %w", s.Selector, s.Type, ErrBadSelector)
		}
	}
	return m, nil
}

// Match reports whether the selector picks the event.
func (m *Matcher) Match(e Matchable) bool {
	switch m.typ {
	case ByStream:
		return m.selector == AllStreams || m.selector == e.StreamID()
	case ByEventType:
		return m.selector == e.EventType()
	case ByEventPattern:
		return m.matchAttributes(e)
	default:
		value, ok := e.JSON()
		return ok && contains(value, m.pattern)
	}
}

// matchAttributes compares as text: an attribute has no other type on the wire.
func (m *Matcher) matchAttributes(e Matchable) bool {
	for name, want := range m.pattern {
		got, ok := e.Attribute(name)
		if !ok || got != attributeText(want) {
			return false
		}
	}
	return true
}

func attributeText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	default:
		data, _ := json.Marshal(v) // it was decoded from JSON
		return string(data)
	}
}

// DecodeJSON decodes one JSON value as a Matcher compares it; ok is false for anything else.
func DecodeJSON(data []byte) (value any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&value); err != nil || d.More() {
		return nil, false
	}
	return value, true
}

// contains is containment as PostgreSQL's jsonb has it: an object contains one whose every member it contains, an array
// one whose every element some element of its contains, and a scalar its equal.
func contains(value, pattern any) bool {
	switch p := pattern.(type) {
	case map[string]any:
		v, ok := value.(map[string]any)
		if !ok {
			return false
		}
		for key, want := range p {
			if got, ok := v[key]; !ok || !contains(got, want) {
				return false
			}
		}
		return true
	case []any:
		v, ok := value.([]any)
		if !ok {
			return false
		}
		for _, want := range p {
			if !anyContains(v, want) {
				return false
			}
		}
		return true
	case json.Number:
		v, ok := value.(json.Number)
		return ok && sameNumber(v, p)
	default:
		return value == pattern
	}
}

func anyContains(values []any, want any) bool {
	for _, v := range values {
		if contains(v, want) {
			return true
		}
	}
	return false
}

// sameNumber compares whole numbers by their digits, which a float would lose beyond 2⁵³, and others by value.
func sameNumber(a, b json.Number) bool {
	if a == b {
		return true
	}
	if !strings.ContainsAny(string(a)+string(b), ".eE") {
		return false
	}
	x, err1 := a.Float64()
	y, err2 := b.Float64()
	return err1 == nil && err2 == nil && x == y
}
