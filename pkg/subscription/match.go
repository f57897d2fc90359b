package subscription

import "strconv"

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
	pattern  pattern
}

// Compile makes the subscription's matcher. The error is Validate's.
func (s Subscription) Compile() (*Matcher, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	m := &Matcher{typ: s.Type, selector: s.Selector}
	if s.Type == ByEventPattern || s.Type == ByEventPayload {
		value, _ := DecodeJSON([]byte(s.Selector)) // Validate did
		m.pattern = newPattern(value)
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
		return ok && m.pattern.in(value)
	}
}

// matchAttributes compares as text: an attribute has no other type on the wire.
func (m *Matcher) matchAttributes(e Matchable) bool {
	for i := range m.pattern.members {
		want := &m.pattern.members[i]
		got, ok := e.Attribute(want.name)
		if !ok || got != want.attributeText() {
			return false
		}
	}
	return true
}

// attributeText is a member's value as an attribute has it. Objects and arrays are no attribute's; they are
// compared as JSON.
func (p *pattern) attributeText() string {
	switch v := p.scalar.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	}
	if p.kind == isNumber {
		return p.text.String()
	}
	return string(p.append(nil, ByEventPattern))
}
